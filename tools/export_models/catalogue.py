"""What each file of models/ is: the architecture with its paper, and the exporter that wrote it."""

from __future__ import annotations

from dataclasses import dataclass

TF2ONNX = "Keras, tf2onnx"
DYNAMO = "PyTorch, default exporter"
TORCHSCRIPT = "PyTorch, TorchScript exporter"

DCGAN = "DCGAN discriminator ([Radford 2015](https://arxiv.org/abs/1511.06434)): Conv2D 5×5 stride 2, LeakyReLU, Dense"
UNET = (
    "U-Net discriminator ([Schönfeld 2020](https://arxiv.org/abs/2002.12655)) with a label projection "
    "([Miyato 2018b](https://arxiv.org/abs/1802.05637)); Dense, Conv2D, Conv2DTranspose and Embedding, each in "
    "`SpectralNormalization`"
)
SNGAN = "SNGAN ResNet discriminator for 32×32 ([Miyato 2018](https://arxiv.org/abs/1802.05957), table 4), 64 channels"
PATCHGAN = (
    "pix2pix 70×70 PatchGAN discriminator ([Isola 2016](https://arxiv.org/abs/1611.07004)), InstanceNorm, 16 channels"
)
PLAIN = ", plain weights (`weight_orig`)"
LOOSE = ", spectral norm left in as arithmetic"


@dataclass(frozen=True)
class Entry:
    """One model file: `golden` names its arrays in tests/golden/models.npz."""

    architecture: str
    exporter: str
    golden: str


CATALOGUE: dict[str, Entry] = {
    "keras_dcgan_discriminator": Entry(DCGAN, TF2ONNX, "keras_dcgan_discriminator"),
    "keras_sn_mixed": Entry(UNET, TF2ONNX, "keras_sn_mixed"),
    "torch_sngan_discriminator": Entry(SNGAN + PLAIN, DYNAMO, "torch_sngan_discriminator"),
    "torch_sngan_discriminator_torchscript": Entry(SNGAN + PLAIN, TORCHSCRIPT, "torch_sngan_discriminator"),
    "torch_sngan_spectral_norm": Entry(SNGAN + LOOSE, DYNAMO, "torch_sngan_spectral_norm"),
    "torch_sngan_spectral_norm_torchscript": Entry(SNGAN + LOOSE, TORCHSCRIPT, "torch_sngan_spectral_norm"),
    "torch_patchgan_discriminator": Entry(PATCHGAN, DYNAMO, "torch_patchgan_discriminator"),
    "torch_patchgan_discriminator_torchscript": Entry(PATCHGAN, TORCHSCRIPT, "torch_patchgan_discriminator"),
}

STATES: dict[str, str] = {
    "keras_sn_mixed.u.safetensors": "The wrappers' `vector_u` at export, one `<initializer>.u` of shape [n] each",
    "torch_sngan_discriminator.u.safetensors": "The hooks' `weight_u` at export, in the same form",
}
