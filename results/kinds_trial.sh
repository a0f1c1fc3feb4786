#!/usr/bin/env bash
# What each kind of synthetic frames is worth, at a small scale. The shipped weights, first adapted to small crops of
# plain frames, are trained further in twelve runs. Each kind is in six of them; its effect is the mean of these less the
# mean of the others (a Plackett-Burman design). An hour of two cores.
#
# Run it from the project's folder. Stopped, it goes on where it was.
set -euo pipefail
net=${NET:-resnet_18} frames=${FRAMES:-1500} val=${VAL:-600} epochs=${EPOCHS:-2} out=${OUT:-output/kinds}
runs=${RUNS:-1 2 3 4 5 6 7 8 9 10 11 12}
kinds=(touching signs objects hands surface person sleeves wrist range sensors leaning)
first=11011100010 # the first run's kinds; a run's row is the one before, moved by one; the twelfth has none

draw() { python -m dataloader.synthetic --out "$out/$1/synth" --split "$2" --frames "$3" --seed "$4" --without "$5"; }
run() { # folder of frames, folder of the run, flags
    python train.py --dataset synth --data_dir "$out/$1" --net "$net" --img_size 64 --batch_size 16 --lr 3e-4 \
        --scheduler cosine --warmup_epochs 0.1 --augment_para 10 0.1 30 --clip_grad 3 --cache --num_workers 1 --resume \
        --output_dir "$out/$2" "${@:3}"
}

draw scored val_hard "$val" 0 ""
draw scored val "$((val / 3))" 0 all
draw plain train "$frames" 10 all
draw plain val "$((val / 10))" 1 all
run plain "${net}_plain" --load_model "results/${net}_synth.pth" --max_epoch "$epochs"

for i in $runs; do
    row=${first:12-i}${first::12-i}
    without=
    for k in "${!kinds[@]}"; do
        [ "$i" -lt 12 ] && [ "${row:k:1}" = 1 ] || without+=${without:+,}${kinds[k]}
    done
    draw "$i" train "$frames" 11 "$without"
    draw "$i" val "$((val / 10))" 1 all
    run "$i" "${net}_$i" --load_model "$out/${net}_plain/last.pth" --max_epoch 1
    for split in val val_hard; do
        python test.py --dataset synth --data_dir "$out/scored" --split "$split" --net "$net" --img_size 64 \
            --load_model "$out/${net}_$i/last.pth" --num_workers 1 --output_dir "$out/${net}_$i/$split"
    done
done

python - <<'PY'
import json
import os
from pathlib import Path

import numpy as np

out, net = Path(os.environ.get("OUT", "output/kinds")), os.environ.get("NET", "resnet_18")
design, errors = [], []
for run in sorted(out.glob(f"{net}_*/val_hard")):
    plain, hard = (json.loads((run.parent / split / "metrics.json").read_text()) for split in ("val", "val_hard"))
    names = list(hard["by_kind"])
    frames = out / run.parent.name.removeprefix(f"{net}_") / "synth" / "train" / "generator.json"
    drawn = json.loads(frames.read_text()).get("kinds", ())
    design.append([1, *(1 if kind in drawn else -1 for kind in names)])
    errors.append([plain["mpe_mm"], hard["mpe_mm"], *(kind["mpe_mm"] for kind in hard["by_kind"].values())])
effects = 2 * np.linalg.lstsq(np.array(design), np.array(errors), rcond=None)[0][1:]
noise = 1.5 * np.median(abs(effects), axis=0)  # most effects are none (Lenth's pseudo standard error)
print("Effect in mm on: frames of the kind, plain frames, frames of all kinds in turn")
for k, kind in enumerate(names):
    print(f"{kind:10}", *(f"{effects[k, e]:+.2f} ± {noise[e]:.2f}" for e in (k + 2, 0, 1)), sep="   ")
PY
