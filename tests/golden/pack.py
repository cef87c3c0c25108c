"""Pack other people's reference numbers into this folder: ``python pack.py FOLDER_OF_ORIGINALS``.

Each file written holds cases of named arrays; an array that several cases share is stored once.
Maps (N, K, h, w) of levels p3..p7 become (N, P, K): levels one after another, row by row.
"""

import gzip
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


def models(source):
    """Images, dense predictions and detections of whole models."""
    cases = {}
    for name in ("official_fcos_imprv", "detectron2_fcos"):
        z = np.load(source / f"e2e_{name}_R_50_FPN_1x.npz")
        for run in "ab":
            case = cases[f"{name}_{run}"] = {"image0": z[f"{run}_image_bgr_uint8"]}
            for new, old in (("logits", "logits"), ("distances", "reg"), ("quality", "ctr")):
                case[new] = flat(z, f"{run}_{old}_p{{}}")
            for field in ("boxes", "scores", "classes"):
                case[field + "0"] = z[f"{run}_det_{field}"]
    z = np.load(source / "e2e_torchvision_fcos_resnet18.npz")
    case = cases["torchvision"] = {
        "logits": z["head_cls_logits"],
        "distances": z["head_bbox_regression"],
        "quality": z["head_bbox_ctrness"],
        "losses": np.array(
            [z["loss_" + k] for k in ("classification", "bbox_regression", "bbox_ctrness")]
        ),
        "resized2": z["preprocessed_batch"][2][:, : z["preprocessed_sizes_hw"][2, 0]],
        "sizes": z["preprocessed_sizes_hw"],
    }
    case["resized2"] = case["resized2"][:, :, : case["sizes"][2, 1]]
    for i in range(3):
        case[f"image{i}"] = z[f"image{i}_rgb_uint8"]
        case[f"gt_boxes{i}"] = z[f"target_boxes_image{i}"]
        case[f"gt_classes{i}"] = z[f"target_labels_image{i}"]
        for field in ("boxes", "scores", "classes"):
            case[field + str(i)] = z[f"det_image{i}_{field}"]
    images = np.load(source / "models/e2e_images.npz")
    for name, file, root, reg, ctr in (
        ("adelaidet_V39", "g4_adet_e2e_full_V39", "head", "bbox_reg", "ctrness"),
        ("official_MNV2", "g7_official_full_bn_MNV2", "eval", "bbox_reg", "centerness"),
    ):
        z = np.load(source / f"models/{file}.npz")
        case = cases[name] = {f"image{i}": images[f"im{i}_bgr"] for i in (0, 1)}
        for new, old in (("logits", "logits"), ("distances", reg), ("quality", ctr)):
            case[new] = flat(z, f"{root}/{old}/p{{}}")
        if "meta/output_hw" in z.files:
            case["output_hw"] = z["meta/output_hw"]
        for i in (0, 1):
            for field in ("boxes", "scores"):
                case[field + str(i)] = z[f"det/im{i}/{field}"]
            one_based = f"det/im{i}/labels1"
            case[f"classes{i}"] = (
                z[one_based] - 1 if one_based in z.files else z[f"det/im{i}/classes"]
            )
    return cases


def mmdet(source):
    z = np.load(source / "models/g8_mmdet.npz")
    cases = {"state": {k[8:]: z[k] for k in z.files if k.startswith("head/sd/")}}
    for norm in ("norm0_ctrreg0", "norm1_ctrreg1"):
        cases[norm] = {
            k: flat(z, f"head/{norm}/eval/{k}/p{{}}")[:1] for k in ("logits", "bbox", "centerness")
        }
    for scene in ("dense", "sparse", "none", "objects"):
        cases[scene] = {
            f"{k}{i}": z[f"post/{scene}/im{i}/{k}"]
            for i in (0, 1)
            for k in ("bboxes", "scores", "labels")
        }
    f = json.loads((source / "models/g8_mmdet.json").read_text())["losses"]
    for key, named in f.items():
        if key.startswith("two/"):
            case = cases[key] = {k: np.array(v) for k, v in named.items()}
            case["labels"] = flat(z, f"loss/two/{key.split('/')[1]}/labels/p{{}}")
    for center in ("cs0", "cs1"):
        grad = flat(z, f"loss/two/{center}/norm1/GIoULoss/grad_reg/p{{}}")
        cases[f"two/{center}/norm1/GIoULoss"]["grad_reg"] = grad
    return cases


def keys(source):
    """{origin/config: {name: shape}} of every published model, compressed."""
    lists = {}
    for folder in sorted((source / "models").glob("keys_*")):
        for path in sorted(folder.glob("*.json")):
            if path.stem != "_index":
                name = path.stem.replace("__", "/")
                lists[f"{folder.name[5:]}/{name}"] = json.loads(path.read_text())
    for name in ("torchvision_fcos_resnet18_7classes", "detectron2_fcos_R_50_FPN_1x"):
        lists[f"e2e/{name}"] = json.loads((source / f"keys_{name}.json").read_text())
    return lists


if __name__ == "__main__":
    source, here = Path(sys.argv[1]), Path(__file__).parent
    for pack in (losses, losses_g2, heads, inference, models, mmdet):
        write(here / f"{pack.__name__}.npz", pack(source))
    with gzip.GzipFile(here / "keys.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(keys(source), separators=(",", ":")).encode())
