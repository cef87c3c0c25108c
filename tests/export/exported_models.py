"""Small models whose detections differ from place to place."""

import torch
from detectron2.modeling import build_model
from engine.tiny import tiny_overrides

import fcos_d2
from fcos_d2 import Predictor

# Shapes of levels are formulas for exporters, so fewer levels are much faster.
TWO_LEVELS = {
    "MODEL.FCOS.TOP_LEVELS": 0,
    "MODEL.FCOS.IN_FEATURES": "('p3', 'p4')",
    "MODEL.FCOS.SIZES_OF_INTEREST": "(64,)",
}
MODELS = {
    "resnet": {},
    "timm": {
        "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_p3p7_backbone",
        "MODEL.TIMM.NAME": "tf_mobilenetv3_small_minimal_100",  # with "same" padding
        "MODEL.TIMM.PRETRAINED": False,
        "MODEL.FPN.IN_FEATURES": "[]",
        "MODEL.FCOS.NORM": "",
        "INPUT.FORMAT": "RGB",
        **TWO_LEVELS,
    },
    "bn": {"MODEL.FCOS.NORM": "BN", "MODEL.FCOS.NORM_REG_TARGETS": False, **TWO_LEVELS},
}


def make_predictor(**changes):
    torch.manual_seed(0)
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    changes = {"INPUT.MAX_SIZE_TEST": 128, "MODEL.FCOS.INFERENCE_TH_TEST": 0.05, **changes}
    cfg.merge_from_list(tiny_overrides("unused", **changes))
    model = build_model(cfg).eval()
    for conv in (model.head.cls_logits, model.head.bbox_pred, model.head.ctrness):
        torch.nn.init.normal_(conv.weight, std=0.1)
    torch.nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return Predictor(model, cfg, ["cat", "dog", "owl"], category_ids=[3, 7, 90])
