"""The shapes of guests that the scenarios need (docs/lab.md tells why each looks as it does)."""

from __future__ import annotations

from tests.lab.guest import Layout

# Node 1 has only hot-plugged memory, all of it onlined as ZONE_MOVABLE.
_MOVABLE_NODE = (
    "-m", "3G,slots=2,maxmem=8G",
    "-object", "memory-backend-ram,id=boot,size=3G",
    "-numa", "node,nodeid=0,memdev=boot,cpus=0-1",
    "-numa", "node,nodeid=1",
    "-object", "memory-backend-ram,id=plugged,size=512M",
    "-device", "pc-dimm,id=dimm0,memdev=plugged,node=1",
)  # fmt: skip

_MOSTLY_MOVABLE = ("movablecore=1536M", "memhp_default_state=online_movable")

LAYOUTS = {
    "plain": Layout(
        name="plain",
        memory="3G",
        kernel_args=_MOSTLY_MOVABLE,
        qemu_args=_MOVABLE_NODE,
    ),
    "matrix": Layout(
        name="matrix",
        memory="3G",
        kernel_args=(
            *_MOSTLY_MOVABLE,
            "secretmem.enable=1",  # off by default up to 6.4
            "memmap=64M!4G",  # /dev/pmem0
        ),
        qemu_args=_MOVABLE_NODE,
    ),
    "forecast": Layout(
        name="forecast",
        memory="3G",
        kernel_args=(*_MOSTLY_MOVABLE, "secretmem.enable=1"),
        qemu_args=_MOVABLE_NODE,
    ),
    # A second device, for a VM whose map works beside one whose map fails.
    "libvirt": Layout(
        name="libvirt",
        memory="3G",
        kernel_args=_MOSTLY_MOVABLE,
        qemu_args=(*_MOVABLE_NODE, "-device", "edu"),
    ),
    "storm": Layout(name="storm", memory="2G", kernel_args=("movablecore=1G",)),
    "oci": Layout(name="oci", memory="2G", kernel_args=("movablecore=1G",)),
    "built": Layout(name="built", memory="2G", kernel_args=("movablecore=1G",)),
    # One CPU: probes that come and go while another CPU maps are what the emulator stumbles over.
    "faults": Layout(name="faults", memory="2G", cpus=1, kernel_args=("movablecore=1G",)),
    # All that is not movable lies below 768 MiB: small enough to be filled and fragmented.
    "fragmented": Layout(
        name="fragmented",
        memory="2816M",
        max_ram_below_4g="768M",
        kernel_args=("movablecore=2048M",),
    ),
    # Below 2.75 GiB all memory is one zone, of which CMA is more than half, so it gets used. A
    # kernel at a random place may leave no 1400 MiB in one piece.
    "cma": Layout(name="cma", memory="2500M", kernel_args=("cma=1400M", "nokaslr")),
    "forecast-cma": Layout(
        name="forecast-cma", memory="2500M", kernel_args=("cma=1400M", "nokaslr")
    ),
}
