#!/usr/bin/env bash
# How hourglass_1_synth.pth was trained: five runs, each from the weights of the one before.
#
# Run it from the project's folder. It takes about five hours on two CPU cores and replaces data/synth/train.
# The first run starts from the network for hand centres; its last layers are initialised for 14 joints.
set -euo pipefail

render() { # frames, seed
    rm -rf data/synth/train
    python -m dataloader.synthetic --out data/synth --split train --frames "$1" --seed "$2" --bank anny --without all
}
run() { # folder, weights to start from, flags
    python train.py --dataset synth --net hourglass_1 --cache --batch_size 16 --num_workers 1 --precision bf16 \
        --dense_weight 1000 --clip_grad 3 --output_dir "output/synth/$1" --load_model "$2" "${@:3}"
}
keep() { # folder, output: the weights alone, in fp16
    python -m util.deployment.export --net hourglass_1 --load_model "output/synth/$1/best.pth" --out "$2"
}

python -m dataloader.synthetic --out data/synth --split val --frames 600 --seed 0 --bank anny --without all

# 1-3: crops of 64, 96, 128 pixels.
render 30000 0
early="--seed 0 --augment_para 10 0.1 30"
late="--img_size 128 --scheduler cosine --lr 4e-4 --warmup_epochs 0.02 --coord_weight 400"
run hourglass_1_64 results/center_hourglass_1_synth.pth $early --img_size 64 --max_epoch 2 --step 99 --lr 5e-4 \
    --warmup_epochs 0.05 --coord_weight 100
run hourglass_1_96 output/synth/hourglass_1_64/last.pth $early --img_size 96 --max_epoch 1 --step 99 --lr 4e-4 \
    --warmup_epochs 0.02 --coord_weight 200
run hourglass_1_128 output/synth/hourglass_1_96/last.pth $early $late --max_epoch 1
keep hourglass_1_128 output/hourglass_1_128.pth

# 4: new frames.
render 64000 1
run hourglass_1_128b output/hourglass_1_128.pth --seed 1 --augment_para 10 0.1 30 $late --max_epoch 1
keep hourglass_1_128b output/hourglass_1_128b.pth

# 5: new frames, less rotation: the frames are rotated already.
render 56000 2
run hourglass_1_128c output/hourglass_1_128b.pth --seed 2 --augment_para 10 0.1 15 $late --max_epoch 2
keep hourglass_1_128c output/hourglass_1_synth.pth
