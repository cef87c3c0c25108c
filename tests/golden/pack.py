"""Pack other people's reference numbers into this folder: ``python pack.py FOLDER_OF_ORIGINALS``.

Each file written holds cases of named arrays; an array that several cases share is stored once.
Maps (N, K, h, w) of levels p3..p7 become (N, P, K): levels one after another, row by row.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np

LEVELS = range(3, 8)
STRIDES = (8, 16, 32, 64, 128)


def flat(arrays, pattern, channels_last=False):
    maps = [arrays[pattern.format(level)] for level in LEVELS]
    if maps[0].ndim == 3:
        return np.concatenate([m.reshape(len(m), -1) for m in maps], axis=1)
    if not channels_last:
        maps = [m.transpose(0, 2, 3, 1) for m in maps]
    return np.concatenate([m.reshape(len(m), -1, m.shape[-1]) for m in maps], axis=1)


def write(path, cases):
    arrays, index = {}, {}
    for case, named in cases.items():
        for name, array in named.items():
            array = np.array(array, order="C")
            digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes())
            key = digest.hexdigest()[:16]
            arrays[key] = array
            index.setdefault(case, {})[name] = key
    np.savez_compressed(path, index=np.array(json.dumps(index)), **arrays)
    print(path.name, f"{path.stat().st_size / 1e6:.2f} MB", len(cases), "cases")


def losses(source):
    z = np.load(source / "loss_inputs.npz")
    cases = {"inputs": {k: flat(z, k + "_p{}") for k in ("logits", "reg", "ctr")}}
    cases["inputs"]["points"] = np.concatenate(
        [z[f"locations_p{k}"].reshape(-1, 2) for k in LEVELS]
    )
    for name in z.files:
        if name.startswith("gt_"):
            cases["inputs"][name] = z[name]
    last = ("reg_targets_px",)
    for path in sorted(source.glob("*_loss_*.npz")):
        z = np.load(path)
        case = cases[path.stem] = {}
        for name in z.files:
            if "_p3" in name:
                stem, suffix = name.split("_p3")
                if stem != "labels_official":
                    pattern = stem + "_p{}" + suffix
                    case[stem + suffix] = flat(z, pattern, channels_last=stem in last)
            elif not re.search(r"_p[4-7]", name):
                case[name] = z[name]
    return cases


def losses_g2(source):
    z = np.load(source / "models/g2_official_loss.npz")
    f = json.loads((source / "models/g2_official_losses.json").read_text())["losses"]
    images = slice(0, 2)  # the third has no boxes; the unmodified original cannot train on it
    owned = np.zeros(flat(z, "two/cs0.0/labels/p{}").shape, bool)
    cases = {
        "inputs": {f"{k}_{i}": z[f"gt/im{i}/{k}"] for i in (0, 1) for k in ("boxes", "classes0")}
    }
    for radius in ("0.0", "1.5"):
        root = f"two/cs{radius}"
        labels = flat(z, root + "/labels/p{}").astype(np.int64)
        owned |= labels > 0
        n, p = labels.shape
        # Original order: level, image, row, column.
        sizes = [int(np.prod(z[f"pred/ctr/p{k}"].shape[2:])) for k in LEVELS]
        ids = np.split(np.arange(n * p).reshape(n, p), np.cumsum(sizes)[:-1], axis=1)
        order = np.concatenate([i.ravel() for i in ids])[z[root + "/pos_flat_index"]]
        targets = np.zeros((n * p, 4), np.float32)
        targets[order] = z[root + "/pos_reg_targets_px"]
        for norm in "01":
            for kind in ("iou", "linear_iou", "giou"):
                grad = flat(z, f"{root}/norm{norm}/{kind}/grad_reg/p{{}}")
                cases[f"radius{radius}_{kind}_norm{norm}"] = {
                    "labels": np.where(labels > 0, labels - 1, 20).astype(np.int16),
                    "reg_targets_px": targets.reshape(n, p, 4),
                    "grad_reg": grad,
                    "grad_ctr": flat(z, root + "/grad_ctr/p{}"),
                    "losses_two_float64": np.array(f[f"two/cs{radius}/norm{norm}/{kind}"]["f64"]),
                    "losses_im0_float64": np.array(f[f"im0/cs{radius}/norm{norm}/{kind}"]["f64"]),
                }
    # Only what the numbers depend on: regression and centerness of locations that own a box.
    cases["inputs"]["reg_px"] = flat(z, "pred/reg_px/p{}")[images] * owned[..., None]
    cases["inputs"]["ctr"] = flat(z, "pred/ctr/p{}")[images] * owned[..., None]
    cases["inputs"]["logits_0"] = flat(z, "pred/logits/p{}")[:1]
    z = np.load(source / "models/g2_focal_loss.npz")
    cases["focal"] = {
        k.replace("fvcore_f64/", ""): z[k] for k in z.files if "/" not in k or "f64" in k
    }
    return cases


def heads(source):
    cases = {}
    for path in sorted(source.glob("*_head_*.npz")):
        z = np.load(path)
        case = cases[path.stem] = {}
        for name in z.files:
            if name.startswith(("state:", "feature")) and not name.endswith("num_batches_tracked"):
                case[name] = z[name]
        for mode in ("train", "eval"):
            for what in ("logits", "reg", "ctr"):
                if f"{mode}_{what}_p3" in z.files:
                    case[f"{mode}_{what}"] = flat(z, f"{mode}_{what}_p{{}}")
    z = np.load(source / "models/g1_official_head.npz")
    case = cases["g1_official_head_dcn_ctrOnReg_norm1"] = {}
    for name in z.files:
        if name.startswith("sd_dcn/"):
            case["state:" + name[7:]] = z[name]
        elif name.startswith("features/"):
            case["feature_" + name[9:]] = z[name][:1]
    root = "norm1_ctrreg1_dcn/f32/"
    for new, old in (("logits", "logits"), ("reg", "bbox_reg_train"), ("ctr", "centerness")):
        case["train_" + new] = flat(z, root + old + "/p{}")[:1]
    return cases


def inference(source):
    z = np.load(source / "inference_inputs.npz")
    cases = {"inputs": {k: flat(z, k + "_p{}") for k in ("logits", "reg", "ctr")}}
    cases["inputs"]["image_sizes_hw"] = z["image_sizes_hw"]
    for path in sorted(source.glob("*_inference_*.npz")):
        if path.stem != "inference_inputs":
            z = np.load(path)
            cases[path.stem] = {k: z[k] for k in z.files}
    z = np.load(source / "models/g3_official_inference.npz")
    for case in ("dense", "sparse", "none", "objects"):
        # reg_px / stride is exact: strides are powers of two.
        cases["g3_inputs_" + case] = {
            **{k: flat(z, f"{case}/in/{k}/p{{}}") for k in ("logits", "reg_px", "ctr")},
            "image_sizes_hw": z["meta/image_sizes_hw"],
        }
        for name in z.files:
            part = name.split("/")
            if part[0] == case and part[2].startswith("nms_"):
                stem = f"g3_{case}_{part[1]}_{part[2]}"
                cases.setdefault(stem, {})[f"{part[4]}_{part[3]}"] = z[name]
    return cases


if __name__ == "__main__":
    source, here = Path(sys.argv[1]), Path(__file__).parent
    for pack in (losses, losses_g2, heads, inference):
        write(here / f"{pack.__name__}.npz", pack(source))
