#!/usr/bin/env bash
# How hourglass_1_synth.pth was trained: seven runs, each from the weights of the one before.
#
# Run it from the project's folder. It takes about seven hours on two CPU cores and replaces data/synth/train and val.
# The first run started from a network for hand centres, which is in git's history alone: here it starts from random weights.
# The frames of run 6 were drawn before kinds.py had its version 2, which draws others.
set -euo pipefail

render() { # split, frames, seed, flags
    rm -rf "data/synth/$1"
    "${hands[@]}" --out data/synth --split "$1" --frames "$2" --seed "$3" "${@:4}"
}
run() { # folder, weights to start from, flags
    python train.py --dataset synth --net hourglass_1 --cache --batch_size 16 --num_workers 1 --precision bf16 \
        --dense_weight 1000 --clip_grad 3 --output_dir "output/synth/$1" --load_model "$2" "${@:3}"
}
keep() { # checkpoint, output: the weights alone, in fp16
    python -m util.deployment.export --net hourglass_1 --load_model "$1" --out "$2"
}
mix() { # weights, other weights, share of these, output: weights between both
    python - <<END
import torch
kept = torch.load("$2")
kept.pop("best_mpe_mm", None)  # it is not theirs any more
for key, value in torch.load("$1")["model"].items():
    if value.is_floating_point():
        kept["model"][key] = torch.lerp(value.float(), kept["model"][key].float(), $3)
torch.save(kept, "$4")
END
}

hands=(python results/make_bank.py) plain="--without all" # hands drawn from the package anny
render val 600 0 $plain

# 1-3: crops of 64, 96, 128 pixels.
render train 30000 0 $plain
early="--seed 0 --augment_para 10 0.1 30"
late="--img_size 128 --scheduler cosine --lr 4e-4 --warmup_epochs 0.02 --coord_weight 400"
run hourglass_1_64 "" $early --img_size 64 --max_epoch 2 --step 99 --lr 5e-4 \
    --warmup_epochs 0.05 --coord_weight 100
run hourglass_1_96 output/synth/hourglass_1_64/last.pth $early --img_size 96 --max_epoch 1 --step 99 --lr 4e-4 \
    --warmup_epochs 0.02 --coord_weight 200
run hourglass_1_128 output/synth/hourglass_1_96/last.pth $early $late --max_epoch 1
keep output/synth/hourglass_1_128/best.pth output/hourglass_1_128.pth

# 4: new frames.
render train 64000 1 $plain
run hourglass_1_128b output/hourglass_1_128.pth --seed 1 --augment_para 10 0.1 30 $late --max_epoch 1
keep output/synth/hourglass_1_128b/best.pth output/hourglass_1_128b.pth

# 5: new frames, less rotation: the frames are rotated already.
render train 56000 2 $plain
run hourglass_1_128c output/hourglass_1_128b.pth --seed 2 --augment_para 10 0.1 15 $late --max_epoch 2
keep output/synth/hourglass_1_128c/best.pth output/hourglass_1_128c.pth

# 6: every kind of frame but `leaning`, hands from the bundled bank. Two fifths of the way there, plain frames are as good
# as they were.
hands=(python -m dataloader.synthetic)
render val 200 0 --without all
render train 40000 20 --without leaning sizes reaching
run hourglass_1_128d output/hourglass_1_128c.pth --augment_para 10 0.1 15 $late --max_epoch 1 --lr 3e-4 \
    --warmup_epochs 0.04
keep output/synth/hourglass_1_128d/best.pth output/hourglass_1_128d.pth
mix output/hourglass_1_128c.pth output/hourglass_1_128d.pth 0.4 output/hourglass_1_mixed.pth
keep output/hourglass_1_mixed.pth output/hourglass_1_128m.pth

# 7: all kinds, and a camera's faults in the crops. Stopped at step 2,198 of 3,750.
render train 60000 30
run hourglass_1_128e output/hourglass_1_128m.pth --img_size 128 --coord_weight 400 --seed 31 --augment_para 10 0.1 20 \
    --rotation both --sensor 1 --max_epoch 1 --step 99 --lr 3e-4 --warmup_epochs 0.01 --ema 0.998 --bn_batches 100
keep output/synth/hourglass_1_128e/last.pth output/hourglass_1_128e.pth
mix output/hourglass_1_128m.pth output/hourglass_1_128e.pth 0.45 output/hourglass_1_mixed.pth
keep output/hourglass_1_mixed.pth output/hourglass_1_synth.pth
