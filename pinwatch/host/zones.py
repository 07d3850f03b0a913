"""Read the host's free side: zones, free blocks by order, hugetlb pools. Roots are arguments.

/proc/zoneinfo and /proc/buddyinfo cost the kernel nothing worth counting. /proc/pagetypeinfo walks
the free lists with the lock of each zone held and interrupts off, so it is read only when asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pinwatch.errors import CannotRunError
from pinwatch.model.placement import FreeMemory, HugetlbPool, Zone

_NODE = re.compile(r"^Node (\d+), zone +(\w+)\n", re.MULTILINE)
_FIELD = re.compile(r"^ +(?:pages )?(\w+):? +(\d+)$", re.MULTILINE)
_RESERVES = re.compile(r"protection: \(([\d, ]+)\)")
_CLASS = "Normal"  # the highest zone of an allocation that must be pinnable (GFP_USER)

Key = tuple[int, str]  # node, zone
ByType = dict[Key, tuple[tuple[str, tuple[int, ...]], ...]]


def read_free(proc: Path, sysfs: Path, *, by_type: bool = False) -> FreeMemory:
    """All of it. CannotRunError when there is no /proc/zoneinfo to read."""
    try:
        zoneinfo, buddyinfo = (proc / "zoneinfo").read_text(), (proc / "buddyinfo").read_text()
        meminfo = (proc / "meminfo").read_text()
    except OSError as error:
        raise CannotRunError(
            f"cannot read {error.filename}: {error.strerror}", hint="run as root"
        ) from None
    types = _types(proc) if by_type else {}
    swap = re.search(r"^SwapFree: +(\d+) kB", meminfo, re.MULTILINE)
    slab = re.search(r"^SReclaimable: +(\d+) kB", meminfo, re.MULTILINE)
    return FreeMemory(
        zones=tuple(parse_zones(zoneinfo, _orders(buddyinfo), types)),
        pools=tuple(_pools(sysfs)),
        swap_free=int(swap[1]) // 4 if swap else 0,
        slab_reclaimable=int(slab[1]) // 4 if slab else 0,
    )


def parse_zones(
    zoneinfo: str, orders: dict[Key, tuple[int, ...]] | None = None, types: ByType | None = None
) -> Iterator[Zone]:
    """The zones that have memory, in the order of /proc/zoneinfo."""
    parts = _NODE.split(zoneinfo)[1:]
    names = list(dict.fromkeys(parts[1::3]))
    for node, name, body in zip(parts[0::3], parts[1::3], parts[2::3], strict=True):
        fields = {key: int(value) for key, value in _FIELD.findall(body)}
        if not fields.get("present"):
            continue
        key = int(node), name
        reserves = _RESERVES.search(body)
        yield Zone(
            node=key[0],
            name=name,
            start_pfn=fields["start_pfn"],
            spanned=fields["spanned"],
            present=fields["present"],
            managed=fields["managed"],
            free=fields["nr_free_pages"],
            free_cma=fields.get("nr_free_cma", 0),
            cma=fields.get("cma", 0),
            watermark_min=fields["min"],
            watermark_low=fields["low"],
            reserve=_reserve(reserves[1] if reserves else "", names),
            per_cpu=sum(map(int, re.findall(r"^ +count: +(\d+)$", body, re.MULTILINE))),
            file=_lru(fields, "file"),
            anon=_lru(fields, "anon"),
            by_order=(orders or {}).get(key, ()),
            by_type=(types or {}).get(key, ()),
        )


def _lru(fields: dict[str, int], kind: str) -> int:
    return sum(fields.get(f"nr_zone_{list_}_{kind}", 0) for list_ in ("active", "inactive"))


def _reserve(protection: str, names: list[str]) -> int:
    """What a zone keeps from allocations of ZONE_NORMAL (setup_per_zone_lowmem_reserve)."""
    values = [int(value) for value in protection.split(",") if value.strip()]
    at = names.index(_CLASS) if _CLASS in names else -1
    return values[at] if 0 <= at < len(values) else 0


def _orders(buddyinfo: str) -> dict[Key, tuple[int, ...]]:
    found = {}
    for line in buddyinfo.splitlines():
        words = line.replace(",", " ").split()
        found[int(words[1]), words[3]] = tuple(map(int, words[4:]))
    return found


def _types(proc: Path) -> ByType:
    """Free blocks by migratetype; nothing where it may not be read. A count that the kernel gave up
    on (">100000") is that."""
    try:
        pagetypeinfo = (proc / "pagetypeinfo").read_text()
    except OSError:
        return {}
    lines = re.findall(r"^Node +(\d+), zone +(\w+), type +(\w+) +(.*)$", pagetypeinfo, re.MULTILINE)
    found: dict[Key, list[tuple[str, tuple[int, ...]]]] = {}
    for node, zone, kind, counts in lines:
        blocks = tuple(int(count.lstrip(">")) for count in counts.split())
        found.setdefault((int(node), zone), []).append((kind, blocks))
    return {key: tuple(kinds) for key, kinds in found.items()}


def _pools(sysfs: Path) -> Iterator[HugetlbPool]:
    for pool in sorted((sysfs / "devices/system/node").glob("node*/hugepages/hugepages-*kB")):
        try:
            total = int((pool / "nr_hugepages").read_text())
            free = int((pool / "free_hugepages").read_text())
        except OSError:
            continue  # the node went away
        yield HugetlbPool(
            node=int(pool.parts[-3].removeprefix("node")),
            page_bytes=int(pool.name.removeprefix("hugepages-").removesuffix("kB")) << 10,
            total=total,
            free=free,
        )
