"""Print the tables of docs/model_zoo.md: ``python tools/model_zoo_table.py``."""

from fcos_d2.checkpoint.published import PUBLISHED, Published

TITLES = {
    "official": "Official FCOS",
    "adelaidet": "AdelaiDet",
    "detectron2": "detectron2",
    "torchvision": "torchvision",
    "mmdet": "mmdetection",
}
# Compared with the original from images to detections, with random weights (tests/checkpoint).
WHOLE = {
    "official/fcos_imprv_R_50_FPN_1x.yaml",
    "official/fcos_bn_bs16_MNV2_FPN_1x.yaml",
    "adelaidet/vovnet/MS_V_39_3x.yaml",
    "detectron2/fcos_R_50_FPN_1x.yaml",
    "torchvision/fcos_resnet50_fpn.yaml",
}


def tables() -> str:
    lines = []
    for origin, title in TITLES.items():
        lines += ["", f"### {title}", "", "| config | AP there | weights | run here |"]
        lines.append("|---|---|---|---|")
        lines += [row(p) for p in PUBLISHED if p.origin == origin]
    return "\n".join(lines[1:])


def row(published: Published) -> str:
    ap = "–" if published.ap is None else f"{published.ap:.1f}"
    if published.url:
        weights = f"[{published.file}]({published.url})"
    else:
        weights = f"{published.file}, no stable address" if published.file else "not published"
    return f"| `{published.config}` | {ap} | {weights} | {checked(published)} |"


def checked(published: Published) -> str:
    if published.config in WHOLE:
        smaller = " of a ResNet-18" if published.origin == "torchvision" else ""
        return f"detections{smaller}, random weights"
    if published.origin == "mmdet":
        return "head, losses, post-processing"
    return "not measured" if "DenseCL" in published.config else "names and shapes"


if __name__ == "__main__":
    print(tables())
