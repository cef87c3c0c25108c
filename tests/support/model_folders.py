"""Tiny models with random weights, and folders like those that training writes."""

import torch
from detectron2.modeling import build_model

import fcos_d2
from support.tiny import tiny_overrides


def tiny_cfg(**changes):
    """Config of a ResNet-18 with three classes, for images of 64 to 100 pixels."""
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.merge_from_list(tiny_overrides("unused", **{"INPUT.MAX_SIZE_TEST": 100, **changes}))
    return cfg


def tiny_model(cfg):
    """Random, but with scores and boxes that differ from location to location."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for conv in (model.head.cls_logits, model.head.bbox_pred):
        torch.nn.init.normal_(conv.weight, std=0.2)
    return model


def write_model_folder(folder, cfg, model, **entries):
    """Write ``config.yaml`` and ``model_final.pth``; ``entries`` are added to the checkpoint."""
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": model.state_dict(), **entries}, folder / "model_final.pth")
    return folder
