#!/usr/bin/env bash
# Bring onnxruntime-gpu to a machine that has a GPU, CUDA and cuDNN (from PyTorch, say) but no network.
#
#   tools/cuda_prepare.sh pack FOLDER [NAME==VERSION…]   # here: download wheels (onnxruntime-gpu) and split them
#   tools/cuda_prepare.sh split FOLDER                   # here: split the wheels that are in FOLDER already
#   tools/cuda_prepare.sh install FOLDER TARGET          # there: take the parts in FOLDER; when all are there, install
#   tools/cuda_prepare.sh check TARGET                   # there: does it load, and what does sn-graph lack beside it
#
# Parts may come one at a time, each with SHA256SUMS beside it: `install` keeps them in TARGET/.parts and ends with 3 until
# the last one is there. Then: PYTHONPATH=TARGET python3 -m tools.cuda_check
#
# PYTHON_VERSION (3.12) is that of the other machine, MEGABYTES (40) the size of a part, PYTHON (python3) what runs here.
set -euo pipefail

PYTHON=${PYTHON:-python3}
PYTHON_VERSION=${PYTHON_VERSION:-3.12}
MEGABYTES=${MEGABYTES:-40}
DEFAULT=onnxruntime-gpu==1.31.1 # for CUDA 13; 1.24.4 is for CUDA 12
SUMS=SHA256SUMS

fail() { # CODE MESSAGE…
    local code=$1
    shift
    echo "cuda_prepare: $*" >&2
    exit "$code"
}

pack() { # FOLDER [NAME==VERSION…]
    local folder=$1 platform platforms=()
    shift
    for platform in 2_28 2_27 2_17; do platforms+=(--platform "manylinux_${platform}_x86_64"); done
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp "${platforms[@]}" \
        --platform manylinux2014_x86_64 --python-version "$PYTHON_VERSION" --dest "$folder" "${@:-$DEFAULT}" ||
        fail 4 "pip can't download ${*:-$DEFAULT} for Python $PYTHON_VERSION"
    split_wheels "$folder"
}

split_wheels() { # FOLDER
    ((MEGABYTES > 0 && MEGABYTES < 64)) || fail 2 "parts have to be under 64 MB, not $MEGABYTES"
    cd "$1"
    ls ./*.whl >/dev/null 2>&1 || fail 3 "there is no wheel in $1"
    rm -f ./*.whl.part* "$SUMS"
    local wheel
    for wheel in *.whl; do
        split --bytes="${MEGABYTES}MB" --numeric-suffixes --suffix-length=3 "$wheel" "$wheel.part"
        sha256sum "$wheel" "$wheel".part* >>"$SUMS"
        rm "$wheel"
    done
    ls -l --block-size=1MB . | tail -n +2
    echo "bring these, each part with $SUMS; the parts of all wheels together may come in any order"
}

install_wheels() { # FOLDER TARGET
    local folder=$1 target=$2 kept=$2/.parts part name missing=() wheel
    [[ -f $folder/$SUMS ]] || fail 3 "$folder holds no $SUMS"
    mkdir -p "$kept"
    if [[ -f $kept/$SUMS ]] && ! cmp --silent "$folder/$SUMS" "$kept/$SUMS"; then
        rm -rf "${kept:?}"/* # of another packing
    fi
    cp "$folder/$SUMS" "$kept/$SUMS"
    for part in "$folder"/*.whl.part*; do
        [[ -e $part ]] || continue
        name=$(basename "$part")
        grep " $name\$" "$kept/$SUMS" | (cd "$folder" && sha256sum --check --status -) ||
            fail 3 "part $name is damaged, or of another packing; bring it again"
        cp "$part" "$kept/$name"
    done
    for name in $(awk '{print $2}' "$kept/$SUMS" | grep '\.part'); do
        [[ -e $kept/$name ]] || missing+=("$name")
    done
    ((${#missing[@]} == 0)) || fail 3 "${#missing[@]} parts are still to come: ${missing[*]}"
    for wheel in $(awk '{print $2}' "$kept/$SUMS" | grep -v '\.part'); do
        cat "$kept/$wheel".part* >"$kept/$wheel"
        grep " $wheel\$" "$kept/$SUMS" | (cd "$kept" && sha256sum --check --status -) || fail 3 "$wheel is damaged"
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$target" "$kept/$wheel" ||
            fail 4 "pip can't install $wheel (is it for this Python?)"
        echo "installed $wheel"
    done
    rm -r "$kept"
}

check() { # TARGET
    PYTHONPATH=$(cd "$1" && pwd):${PYTHONPATH:-} "$PYTHON" - "$1" <<'PYTHON'
import contextlib
import ctypes
import importlib.util
import io
import re
import sys
from pathlib import Path

target = Path(sys.argv[1]).resolve()
if importlib.util.find_spec("onnxruntime") is None:
    print(f"cuda_prepare: there is no onnxruntime in {target}", file=sys.stderr)
    sys.exit(4)
import onnxruntime

where = Path(onnxruntime.__file__).resolve().parent
print(f"onnxruntime {onnxruntime.__version__} in {where}: {', '.join(onnxruntime.get_available_providers())}")
if target not in where.parents:
    print(f"cuda_prepare: that is not the one in {target}", file=sys.stderr)
    sys.exit(4)


def found(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


needs = "onnx numpy scipy click rich safetensors threadpoolctl google.protobuf flatbuffers packaging".split()
modules = [name for name in needs if not found(name)]
print("sn-graph lacks " + (", ".join(modules) or "no Python package"))
# CUDA's libraries from the nvidia-* packages, which PyTorch brings; onnxruntime looks for them beside itself only.
with contextlib.redirect_stdout(io.StringIO()):
    onnxruntime.preload_dlls()
    for folder in sorted(folder for entry in sys.path for folder in Path(entry or ".").glob("nvidia/*/lib")):
        onnxruntime.preload_dlls(directory=str(folder.resolve()))
provider = where / "capi" / "libonnxruntime_providers_cuda.so"
if not provider.exists():
    print("cuda_prepare: this onnxruntime has no CUDA provider", file=sys.stderr)
    sys.exit(4)
named = set(map(bytes.decode, re.findall(rb"\0(lib(?:cu|nv)[A-Za-z]+\.so\.\d+)(?=\0)", provider.read_bytes())))
libraries = {}  # of some it takes either of two versions
for name in sorted({*named, "libcudnn.so.9"}):
    libraries.setdefault(name.partition(".")[0], []).append(name)
lacking = [" or ".join(names) for names in libraries.values() if not any(map(loads, names))]
print("the CUDA provider lacks " + (", ".join(lacking) or "no library"))
sys.exit(4 if modules or lacking else 0)
PYTHON
}

case ${1:-} in
    pack | split | check) (($# >= 2)) || fail 2 "$1 needs a folder" ;;
    install) (($# == 3)) || fail 2 "install needs a folder and a target" ;;
    *) fail 2 "pack, split, install or check (the head of this file says how)" ;;
esac
verb=$1
shift
case $verb in
    pack) mkdir -p "$1" && pack "$@" ;;
    split) split_wheels "$1" ;;
    install) install_wheels "$1" "$2" ;;
    check) check "$1" ;;
esac
