#!/usr/bin/env python
"""Train or evaluate FCOS.

python train_net.py --num-gpus 8 --config-file configs/fcos_R_50_FPN_1x.yaml
python train_net.py --eval-only --config-file ... MODEL.WEIGHTS model.pth
"""

from fcos_d2.engine.main import run

if __name__ == "__main__":
    run()
