"""Renaming rules of backbones: names in their original code -> names in timm."""

from .format import Rule

__all__ = ["DLA_RULES", "MOBILENET_V2_RULES", "VOVNET_RULES"]

_PREFIX = r"^backbone\.bottom_up\."
_MODEL = "backbone.bottom_up.model."

# Inverted residual blocks of each stage.
_MOBILENET_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_STAGE_AND_BLOCK = [(s, b) for s, n in enumerate(_MOBILENET_V2_BLOCKS) for b in range(n)]
# Index in the flat list [convolution, batch norm, ReLU6, ...] of a block -> name in timm.
_FIRST_BLOCK = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
_BLOCK = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}


def _mobilenet_block(match) -> str:
    stage, block = _STAGE_AND_BLOCK[int(match[1]) - 1]
    layer = (_FIRST_BLOCK if stage == 0 else _BLOCK)[match[2]]
    return f"{_MODEL}blocks.{stage}.{block}.{layer}."


MOBILENET_V2_RULES: tuple[Rule, ...] = (
    (_PREFIX + r"features\.0\.0\.", _MODEL + "conv_stem."),
    (_PREFIX + r"features\.0\.1\.", _MODEL + "bn1."),
    (_PREFIX + r"features\.([1-9]|1[0-7])\.conv\.([013467])\.", _mobilenet_block),
)

DLA_RULES: tuple[Rule, ...] = ((_PREFIX + r"(base_layer|level\d)\.", _MODEL + r"\1."),)

VOVNET_RULES: tuple[Rule, ...] = (
    (_PREFIX + r"stem\.stem_(\d)/", lambda m: f"{_MODEL}stem_{int(m[1]) - 1}."),
    (
        _PREFIX + r"stage(\d)\.OSA\d_(\d+)\.",
        lambda m: f"{_MODEL}stages_{int(m[1]) - 2}.blocks.{int(m[2]) - 1}.",
    ),
    (r"^(backbone\.bottom_up\.model\.stages_.*)layers\.(\d)\.OSA\w+/", r"\1conv_mid.\2."),
    (r"^(backbone\.bottom_up\.model\.stages_.*)concat\.OSA\w+/", r"\1conv_concat."),
    (r"^(backbone\.bottom_up\.model\.stages_.*)ese\.fc\.", r"\1attn.fc."),
    (r"^(backbone\.bottom_up\.model\.st(?:em|ages)_.*\.)norm\.", r"\1bn."),
)
