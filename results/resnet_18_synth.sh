#!/usr/bin/env bash
# How resnet_18_synth.pth was trained: ten runs, each from the weights of the one before.
#
# Run it from the project's folder. It takes about ten hours on two CPU cores and replaces data/synth/train.
# Two runs were stopped just before their end: the fourth at step 5,970 of 6,000, the eighth at 8,324 of 9,000.
# Small crops come first: one of 64 pixels costs a quarter of one of 128.
set -euo pipefail

render() { # frames, seed
    rm -rf data/synth/train
    python results/make_bank.py --out data/synth --split train --frames "$1" --seed "$2" --without all
}
run() { # folder, weights to start from, flags
    python train.py --dataset synth --net resnet_18 --cache --batch_size 16 --num_workers 1 --dense_weight 1000 \
        --output_dir "output/synth/$1" --load_model "$2" "${@:3}"
}
keep() { # checkpoint, output: the weights alone, in fp16
    python -m util.deployment.export --load_model "$1" --out "$2"
}
keep_short() { # the same, with 4 bits after each weight's leading one: git packs the zeros behind them well
    python - <<END
import torch
content = torch.load("$1", weights_only=True)
for weight in content["model"].values():
    if weight.dim() > 1:
        fraction, exponent = torch.frexp(weight)  # the fraction lies in [0.5, 1)
        weight.copy_(torch.ldexp(torch.round(fraction * 2**5) / 2**5, exponent))
torch.save(content, "output/rounded.pth")
END
    keep output/rounded.pth "$2"
}

python results/make_bank.py --out data/synth --split val --frames 600 --seed 0 --without all

# 1-3: the whole network, crops of 64, 96, 128 pixels.
render 30000 0
first="--precision bf16 --seed 0 --augment_para 10 0.1 30"
run resnet_18_64 "" $first --img_size 64 --max_epoch 3 --step 99 --lr 7e-4 --warmup_epochs 0.05 --coord_weight 100
run resnet_18_96 output/synth/resnet_18_64/last.pth $first --img_size 96 --max_epoch 1 --step 99 --lr 5e-4 \
    --warmup_epochs 0.02 --coord_weight 200
run resnet_18_128 output/synth/resnet_18_96/last.pth $first --img_size 128 --max_epoch 1 --scheduler cosine \
    --lr 5e-4 --warmup_epochs 0.02 --coord_weight 400
keep output/synth/resnet_18_128/best.pth output/resnet_18_128.pth

# 4: new frames, joints weigh more, less rotation.
render 48000 3
late="--img_size 128 --scheduler cosine --coord_weight 1000"
run resnet_18_128b output/resnet_18_128.pth $late --precision bf16 --seed 3 --augment_para 10 0.1 15 --max_epoch 2 \
    --lr 5e-4 --warmup_epochs 0.02
keep output/synth/resnet_18_128b/last.pth output/resnet_18_128b.pth

# 5: new frames, the first layers frozen, no rotation.
render 46000 5
run resnet_18_128c output/resnet_18_128b.pth $late --precision bf16 --seed 5 --augment_para 10 0.1 0 --max_epoch 2 \
    --lr 4e-4 --warmup_epochs 0.02 --freeze pre layer1
keep_short output/synth/resnet_18_128c/last.pth output/resnet_18_128c.pth

# 6: the decoder alone, its weights averaged.
render 36000 6
decoder="--precision fp32 --augment_para 5 0.05 0 --max_epoch 1 --warmup_epochs 0.02 --bn_batches 100"
run resnet_18_128d output/resnet_18_128c.pth $late $decoder --seed 6 --lr 2e-4 --ema 0.998 \
    --freeze pre layer1 layer2 layer3 layer4
keep output/synth/resnet_18_128d/last.pth output/resnet_18_128d.pth
python - <<'END' # the first transposed convolution as it was: 0.02 mm worse, half of the bytes for git
import torch
kept = torch.load("output/resnet_18_128c.pth")["model"]["deconv_layers.0.weight"]
weights = torch.load("output/resnet_18_128d.pth")
weights["model"]["deconv_layers.0.weight"] = kept
torch.save(weights, "output/resnet_18_128d.pth")
END

# 7: what is left of the decoder.
render 12800 7
run resnet_18_128e output/resnet_18_128d.pth $late $decoder --seed 7 --lr 1e-4 --ema 0.995 \
    --freeze pre layer1 layer2 layer3 layer4 deconv_layers.0
keep_short output/synth/resnet_18_128e/last.pth output/resnet_18_128e.pth

# 8: encoder and decoder, without the largest convolutions.
render 48000 8
run resnet_18_128f output/resnet_18_128e.pth $late --precision bf16 --seed 8 --augment_para 7 0.07 0 --max_epoch 3 \
    --lr 6e-4 --warmup_epochs 0.05 --ema 0.998 --bn_batches 100 \
    --freeze layer3.0.conv2 layer3.1.conv1 layer3.1.conv2 layer4.0.conv1 layer4.0.conv2 layer4.1.conv1 \
    layer4.1.conv2 deconv_layers.0 deconv_layers.3
keep_short output/synth/resnet_18_128f/last.pth output/resnet_18_128f.pth

# 9: all kinds of frames, and a camera's faults in the crops; hands from the bundled bank.
rm -rf data/synth/train
python -m dataloader.synthetic --out data/synth --split train --frames 60000 --seed 30
faults="--img_size 128 --precision bf16 --coord_weight 400 --clip_grad 3 --augment_para 10 0.1 20 --rotation both --sensor 1
    --max_epoch 1 --lr 3e-4 --warmup_epochs 0.01 --ema 0.998 --bn_batches 100"
run resnet_18_128g output/resnet_18_128f.pth $faults --seed 32 --step 99

# 10: a third of these frames again, the learning rate down to 0.
rm -rf data/synth/train
python -m dataloader.synthetic --out data/synth --split train --frames 20000 --seed 30
run resnet_18_128h output/synth/resnet_18_128g/last.pth $faults --seed 33 --scheduler cosine

# 0.45 of the way from the weights of run 8 to these: plain frames (val) become 0.25 mm worse, and 0.07 by the rounding.
python - <<'END'
import torch
content, new = torch.load("output/resnet_18_128f.pth"), torch.load("output/synth/resnet_18_128h/last.pth")["model"]
for key, value in content["model"].items():
    if value.is_floating_point():
        content["model"][key] = torch.lerp(value.float(), new[key].float(), 0.45)
torch.save(content, "output/resnet_18_mixed.pth")
END
keep_short output/resnet_18_mixed.pth output/resnet_18_synth.pth
