#!/usr/bin/env bash
# What the kinds of synthetic frames are worth, at a small scale: the shipped weights, trained further on plain frames
# and as long on all kinds, each scored on plain frames and by kind. Half an hour of two cores.
#
# Run it from the project's folder. Stopped, it goes on where it was.
set -euo pipefail
net=${NET:-resnet_18} frames=${FRAMES:-1500} val=${VAL:-600} epochs=${EPOCHS:-2} seeds=${SEEDS:-0 1} out=${OUT:-output/kinds}

draw() { python -m dataloader.synthetic --out "$out/$1/synth" --split "$2" --frames "$3" --seed "$4" "${@:5}"; }
draw scored val_hard "$val" 0
draw scored val "$((val / 3))" 0 --without all
for frames_of in plain kinds; do
    without=$([ "$frames_of" = plain ] && echo all || true)
    draw "$frames_of" train "$frames" 10 --without "$without"
    draw "$frames_of" val "$((val / 10))" 1 --without "$without"
    for seed in $seeds; do
        run=$out/${net}_${frames_of}_$seed
        python train.py --dataset synth --data_dir "$out/$frames_of" --net "$net" --load_model "results/${net}_synth.pth" \
            --img_size 64 --batch_size 16 --max_epoch "$epochs" --lr 3e-4 --scheduler cosine --warmup_epochs 0.1 \
            --augment_para 10 0.1 30 --clip_grad 3 --seed "$seed" --cache --num_workers 1 --resume --output_dir "$run"
        for split in val val_hard; do
            python test.py --dataset synth --data_dir "$out/scored" --split "$split" --net "$net" --img_size 64 \
                --load_model "$run/last.pth" --num_workers 1 --output_dir "$run/$split"
        done
    done
done
