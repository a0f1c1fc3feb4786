#!/usr/bin/env bash
# Fine-tune hourglass_1 on every kind of frame, in ten minutes of one large GPU and 16 CPU cores.
#
# Not run on a GPU yet. On a CPU it was tried by
# FRAMES=40 VAL=20 EPOCHS=1 WORKERS=1 FLAGS="--no_compile --batch_size 8" bash results/hourglass_1_gpu.sh
# Run it from the project's folder; it replaces data/synth's train, val and val_hard. OUT gets the weights and their scores.
set -euo pipefail
frames=${FRAMES:-56000} val=${VAL:-600} epochs=${EPOCHS:-10} seconds=${TRAIN_SECONDS:-360}
workers=${WORKERS:-16} out=${OUT:-output}
run=output/synth/hourglass_1_gpu

# 150 s on 16 cores.
rm -rf data/synth/train
rm -rf data/synth/val
rm -rf data/synth/val_hard
rm -rf "$run"
python -m dataloader.synthetic --out data/synth --split val --frames "$val" --seed 0 --num_workers "$workers"
python -m dataloader.synthetic --out data/synth --split val_hard --frames "$val" --seed 0 --num_workers "$workers"
python -m dataloader.synthetic --out data/synth --split train --frames "$frames" --seed 10 --num_workers "$workers"

# Stopped in time, whatever is done: best.pth is that of the best epoch so far.
timeout -s TERM "$seconds" python train.py --dataset synth --net hourglass_1 \
    --load_model results/hourglass_1_synth.pth --cache --compile --precision bf16 --batch_size 64 \
    --num_workers "$workers" --max_epoch "$epochs" --scheduler cosine --lr 4e-4 --warmup_epochs 0.1 --dense_weight 1000 --coord_weight 400 --clip_grad 3 \
    --ema 0.999 --augment_para 10 0.1 15 --save_minutes 1 --output_dir "$run" ${FLAGS:-} || [ $? = 124 ]
mkdir -p "$out"
python -m util.deployment.export --net hourglass_1 --load_model "$run/best.pth" --out "$out/hourglass_1_gpu.pth"
for split in test val_hard; do
    python test.py --net hourglass_1 --load_model "$out/hourglass_1_gpu.pth" --split "$split" --output_dir "$out/$split"
done
