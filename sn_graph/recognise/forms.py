"""Forms: what the arithmetic in front of a weight input is, and how each form looks.

    spectral-norm           W ─┬────────────────────────────── Div ─ Conv    σ = uᵀ M v, u and v stored: torch's hook
                               └ Reshape ─ MatMul(·,v) ─ MatMul(u,·) ┘       and parametrization in eval
    spectral-norm-train     the same from u (hook) or v (parametrization)    σ = ‖M v_k‖, k iterations from the stored
                            with 2k × (MatMul ─ ReduceL2 ─ Clip ─ Div)       vector: exported in train mode
    spectral-norm-iterated  the same from a row u [1, n], or from a buffer   BigGAN-PyTorch, `_bar` wrappers: they
                            that is not torch's                              iterate in eval too
    normalized-otherwise    W / d, d a number that depends on W and is no    σ₂ (mmgeneration), ‖conv‖ at one size
                            estimate of its largest singular value           (DUE), √(‖W‖₁ ‖W‖∞)
    weight-norm             g · V / ‖V‖, over all axes but one, or all       Salimans and Kingma, 1602.07868
    computed                anything else                                    masks, low-rank updates, equalised learning
                                                                             rates, W / ‖W‖_F

Around σ: a soft cap, d = max(1, σ/c) (DUE, 2106.04015's code); a gain, γ·W/σ (σReparam, 2303.06296). Sources:
torch/nn/utils/spectral_norm.py and parametrizations.py (2.13), ajbrock/BigGAN-PyTorch layers.py, Miyato et al., 2018,
https://arxiv.org/abs/1802.05957.
"""

from enum import StrEnum


class Form(StrEnum):
    """What the arithmetic in front of a weight input is."""

    SPECTRAL_NORM = "spectral-norm"
    SPECTRAL_NORM_TRAIN = "spectral-norm-train"
    SPECTRAL_NORM_ITERATED = "spectral-norm-iterated"
    NORMALIZED_OTHERWISE = "normalized-otherwise"
    WEIGHT_NORM = "weight-norm"
    COMPUTED = "computed"
    FOLDED_BY_EXPORTER = "folded-by-exporter"

    @property
    def is_spectral_norm(self) -> bool:
        """Whether it divides by an estimate of the matrix's spectral norm."""
        return self in (Form.SPECTRAL_NORM, Form.SPECTRAL_NORM_TRAIN, Form.SPECTRAL_NORM_ITERATED)
