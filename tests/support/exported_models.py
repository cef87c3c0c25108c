"""Small models with detections that differ from location to location, and a check of exports."""

import numpy as np
import torch
from detectron2.modeling import build_model

from fcos_d2 import Predictor
from fcos_d2.export.check import compare_detections
from fcos_d2.export.runtime import load_exported
from fcos_d2.export.save import OUTPUTS
from fcos_d2.modeling.head import FCOSHead
from support.model_folders import tiny_cfg
from support.models import TinyBackbone, fcos_from

SHAPES = [(1, 64, 64), (3, 96, 160), (1, 160, 96)]
# Shapes of levels are formulas for exporters, so fewer levels are much faster.
TWO_LEVELS = {
    "MODEL.FCOS.TOP_LEVELS": 0,
    "MODEL.FCOS.IN_FEATURES": "('p3', 'p4')",
    "MODEL.FCOS.SIZES_OF_INTEREST": "(64,)",
    "MODEL.FCOS.TOP_BLOCK_IN": "p4",
    "MODEL.FPN.IN_FEATURES": "['res3', 'res4']",
    "MODEL.RESNETS.OUT_FEATURES": "['res3', 'res4']",
}
TIMM = {
    "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_p3p7_backbone",
    "MODEL.TIMM.NAME": "tf_mobilenetv3_small_minimal_100",  # with "same" padding
    "MODEL.TIMM.PRETRAINED": False,
    "MODEL.FCOS.NORM": "",
    "INPUT.FORMAT": "RGB",
    "MODEL.FCOS.TOP_LEVELS": 0,
    "MODEL.FCOS.IN_FEATURES": "('p3',)",
    "MODEL.FCOS.SIZES_OF_INTEREST": "()",
    "MODEL.FCOS.TOP_BLOCK_IN": "p3",
    "MODEL.FPN.IN_FEATURES": "['res3']",
}


def make_predictor(**changes):
    torch.manual_seed(0)
    changes = {"INPUT.MAX_SIZE_TEST": 128, "MODEL.FCOS.INFERENCE_TH_TEST": 0.05, **changes}
    cfg = tiny_cfg(**changes)
    model = bring_to_life(build_model(cfg))
    return Predictor(model, cfg, ["cat", "dog", "owl"], category_ids=[3, 7, 90])


def two_level_fcos(head=None, **options):
    """Without a real backbone: exports in seconds."""
    torch.manual_seed(0)
    head = {"num_cls_convs": 1, "num_box_convs": 1, **(head or {})}
    model = fcos_from(
        TinyBackbone(strides=[8, 16]),
        FCOSHead(in_channels=32, num_levels=2, num_classes=3, **head),
        model_options={"pixel_mean": [100.0, 110.0, 120.0], "pixel_std": [50.0, 55.0, 60.0]},
        sizes_of_interest=[64],
        **options,
    )
    return bring_to_life(model)


@torch.no_grad()
def bring_to_life(model):
    """Random statistics of batch norms, and predictions neither all alike nor all saturated."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.eval()
    head = model.head
    side = 2.0 if head.box_coder.in_strides else 3.0  # two strides, or exp(3) pixels
    wanted = {head.cls_logits: (-2.0, 1.5), head.bbox_pred: (side, 0.5), head.ctrness: (0.0, 1.0)}
    seen = {conv: [] for conv in wanted}
    for conv in wanted:
        torch.nn.init.normal_(conv.weight)
    hooks = [
        c.register_forward_hook(lambda c, _, out: seen[c].append(out.flatten())) for c in wanted
    ]
    model.network((torch.rand(1, 3, 128, 128) * 255 - model.pixel_mean) / model.pixel_std)
    for hook in hooks:
        hook.remove()
    for conv, (mean, spread) in wanted.items():
        values = torch.cat(seen[conv])
        scale = spread / values.std()
        conv.bias.sub_(values.mean()).mul_(scale).add_(mean)
        conv.weight.mul_(scale)
    return model


def inputs(count, height, width):
    """Padded images of noise and their sizes, as exported models take them."""
    images = np.random.uniform(0, 255, (count, 3, height, width)).round().astype(np.float32)
    sizes = np.array([[height - 2 * i, width - 3 * i] for i in range(count)], dtype=np.int64)
    return images, sizes


@torch.no_grad()
def model_outputs(model, images, sizes):
    tensors = [torch.from_numpy(i[:, :h, :w]) for i, (h, w) in zip(images, sizes)]
    return model([{"image": tensor} for tensor in tensors])


def check_complete(model, path, kind="onnx"):
    """Assert that an exported file with NMS finds the model's detections, at all ``SHAPES``."""
    run = load_exported(path, kind, "inside")
    for shape in SHAPES:
        images, sizes = inputs(*shape)
        found = run(images, sizes)
        assert list(found) == list(OUTPUTS["inside"])
        for i, output in enumerate(model_outputs(model, images, sizes)):
            wanted, k = output["instances"], int(found["count"][i])
            ours = [torch.from_numpy(found[n][i, :k]) for n in ("boxes", "scores", "classes")]
            theirs = wanted.pred_boxes.tensor, wanted.scores, wanted.pred_classes
            pixels, scores, unmatched = compare_detections(ours, theirs)
            assert len(wanted) > 10
            assert (pixels <= 0.5, scores <= 1e-3, unmatched) == (True, True, 0)
            assert (np.diff(found["scores"][i]) <= 0).all()
