#!/usr/bin/env bash
# Build the wheel of `make wheels` for aarch64, install it into a Debian of that architecture, and run the tests of NumPy batches
# there, under emulation. Usage: tests/package/aarch64.sh FOLDER, as root. The Debian stays in FOLDER/root for the next run.
set -euo pipefail

missing=""
for program in debootstrap qemu-aarch64-static python3.11; do
    command -v "$program" > /dev/null || missing=1
done
if [ -n "$missing" ]; then
    echo "needs Python 3.11 with headers, and packages of Debian: apt-get install debootstrap qemu-user-static" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "must run as root, to register the emulator with the kernel for the duration of the run" >&2
    exit 1
fi

folder=$(mkdir -p "$1" && realpath "$1")
root=$folder/root
python=$(realpath -s .venv/bin/python)

binfmt=/proc/sys/fs/binfmt_misc
mountpoint -q $binfmt || mount -t binfmt_misc none $binfmt
if [ ! -e $binfmt/qemu-aarch64 ]; then
    trap 'echo -1 > $binfmt/qemu-aarch64' EXIT
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    # F: open the emulator now, so that it is found inside of the Debian, too.
    printf ':qemu-aarch64:M::%s:%s:%s:F' "$magic" "$mask" "$(command -v qemu-aarch64-static)" > $binfmt/register
fi

if [ ! -e "$root/.complete" ]; then
    echo "== Debian for arm64"
    rm -rf "$root"
    debootstrap --arch=arm64 --variant=minbase --include=python3 bookworm "$root" > "$folder/debootstrap.log"
    touch "$root/.complete"
fi

echo "== wheel"
version=3.11 # of Debian's Python
rm -rf "$folder/dist" "$root/opt"
"$python" tests/package/wheels.py "$folder" --python "$(command -v python$version)" --platform manylinux_2_17_aarch64
"$python" -m pip install --quiet --upgrade --target "$root/usr/local/lib/python$version/dist-packages" --python-version $version --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    -c requirements/constraints.txt "$folder"/dist/*.whl pytest pytest-timeout hypothesis

echo "== tests"
mkdir "$root/opt"
cp -r --parents conftest.py pyproject.toml tests examples "$root/opt"
chroot "$root" /bin/sh -ec "
    cd /opt
    export PYTHONDONTWRITEBYTECODE=1
    python3 tests/package/smoke.py 0
    python3 -m pytest -q --timeout 1800 -p no:cacheprovider tests/oracle tests/specification tests/mixing tests/loader tests/faults"
