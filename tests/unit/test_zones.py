"""The host's free side from texts in the shapes of v6.1, v6.12 and v7.2 (mm/vmstat.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinwatch.errors import CannotRunError
from pinwatch.host import zones
from pinwatch.model.placement import FreeMemory, HugetlbPool, Zone
from tests.unit.memory_tree import Tree

# zoneinfo_show_print: what a node has comes with its first zone; a zone without memory ends after
# its protection; `boost` since v5.14, `promo` and `nr_free_cma` 6.x, free blocks by type v6.16.
DMA32 = """\
Node 0, zone    DMA32
  per-node stats
      nr_inactive_anon 120
      nr_zone_active_file 99999
      nr_free_cma  4096
  pages free     51234
        boost    0
        min      1000
        low      1250
        high     1500
{promo}        spanned  1044480
        present  782288
        managed  716752
        cma      8192
        protection: (0, 0, 7800, 7800, 11900)
      nr_free_pages 51234
{blocks}      nr_zone_inactive_anon 40
      nr_zone_active_anon 2
      nr_zone_inactive_file 300
      nr_zone_active_file 5
      nr_zone_unevictable 0
      nr_zone_write_pending 7
      nr_mlock     0
      nr_bounce    0
      nr_zspages   0
      nr_free_cma  4096
{unaccepted}      numa_hit     6
  pagesets
    cpu: 0
              count:    11
              high:     1400
              batch:    63
{high}  vm stats threshold: 36
    cpu: 1
              count:    22
              high:     1400
              batch:    63
{high}  vm stats threshold: 36
  node_unreclaimable:  0
  start_pfn:           4096
"""
EMPTY = """\
Node 0, zone   Device
  pages free     0
        boost    0
        min      0
        low      0
        high     0
        spanned  0
        present  0
        managed  0
        cma      0
        protection: (0, 0, 0, 0, 0)
"""
NORMAL = """\
Node 0, zone   Normal
  pages free     7000
        boost    0
        min      100
        low      200
        high     300
        spanned  262144
        present  262144
        managed  250000
        cma      0
        protection: (0, 0, 0, 32768, 0)
      nr_free_pages 7000
      nr_zone_inactive_anon 0
      nr_free_cma  0
  pagesets
  node_unreclaimable:  0
  start_pfn:           1048576
"""
FIRST = (
    "Node 0, zone      DMA\n  per-node stats\n      nr_slab_reclaimable 0\n"
    + EMPTY.split("\n", 1)[1]
)
SHAPES = {
    "6.1": DMA32.format(promo="", blocks="", unaccepted="", high=""),
    "6.12": DMA32.format(
        promo="        promo    1750\n", blocks="", unaccepted="      nr_unaccepted 0\n",
        high="              high_min: 100\n              high_max: 1400\n",
    ),
    "7.2": DMA32.format(
        promo="        promo    1750\n",
        blocks="      nr_free_pages_blocks 40960\n",
        unaccepted="      nr_unaccepted 0\n",
        high="              high_min: 100\n              high_max: 1400\n",
    ),
}  # fmt: skip
BUDDYINFO = """\
Node 0, zone      DMA      0      0      0      0      0      0      0      0      0      0      0 
Node 0, zone    DMA32      4      3      5      2      1      0      0      0      1      2     90 
Node 0, zone   Normal      6      0      0      0      0      0      0      0      0      0      5 
"""  # noqa: W291
PAGETYPEINFO = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10 
Node    0, zone    DMA32, type    Unmovable      1      0      0      0      0      0      0      0      0      1      0 
Node    0, zone    DMA32, type      Movable >100000      3      5      2      1      0      0      0      1      0     82 
Node    0, zone    DMA32, type          CMA      0      0      0      0      0      0      0      0      0      1      8 

Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic          CMA      Isolate 
Node 0, zone    DMA32           12         1400           30            0           16            0 
"""  # noqa: E501, W291


def write(tree: Tree, zoneinfo: str) -> None:
    tree.write("proc/zoneinfo", zoneinfo)
    tree.write("proc/buddyinfo", BUDDYINFO)
    tree.write("proc/pagetypeinfo", PAGETYPEINFO)
    meminfo = "MemTotal: 4000000 kB\nSwapFree:        2048 kB\nSReclaimable:      400 kB\n"
    tree.write("proc/meminfo", meminfo)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    found = Tree(tmp_path)
    write(found, FIRST + SHAPES["6.12"] + NORMAL + EMPTY.replace("Device", "Movable") + EMPTY)
    return found


def read(tree: Tree, *, by_type: bool = False) -> FreeMemory:
    return zones.read_free(tree.proc, tree.sys, by_type=by_type)


@pytest.mark.parametrize("release", SHAPES)
def test_a_zone(tree: Tree, release: str) -> None:
    write(tree, FIRST + SHAPES[release] + NORMAL + EMPTY.replace("Device", "Movable") + EMPTY)
    zone, normal = read(tree).zones
    assert zone == Zone(
        node=0, name="DMA32", start_pfn=4096, spanned=1044480, present=782288, managed=716752,
        free=51234, free_cma=4096, cma=8192, watermark_min=1000, watermark_low=1250, reserve=7800,
        per_cpu=33, file=305, anon=42, by_order=(4, 3, 5, 2, 1, 0, 0, 0, 1, 2, 90),
    )  # fmt: skip
    assert (normal.reserve, normal.per_cpu, normal.start_pfn) == (0, 0, 1 << 20)


def test_zones_without_memory_are_none(tree: Tree) -> None:
    assert [zone.name for zone in read(tree).zones] == ["DMA32", "Normal"]


def test_a_kernel_without_cma(tree: Tree) -> None:
    text = "\n".join(one for one in SHAPES["6.12"].splitlines() if "cma" not in one)
    write(tree, text + "\n")
    (zone,) = read(tree).zones
    assert (zone.cma, zone.free_cma) == (0, 0)


def test_nodes_without_their_lower_zones(tree: Tree) -> None:
    write(tree, FIRST + SHAPES["6.1"] + NORMAL + NORMAL.replace("Node 0", "Node 1"))
    assert [(zone.node, zone.name) for zone in read(tree).zones] == [
        (0, "DMA32"), (0, "Normal"), (1, "Normal"),
    ]  # fmt: skip
    assert read(tree).zones[2].by_order == ()


def test_swap_and_slab_in_pages(tree: Tree) -> None:
    found = read(tree)
    assert (found.swap_free, found.slab_reclaimable) == (512, 100)


def test_free_blocks_by_type_and_a_count_that_was_given_up(tree: Tree) -> None:
    kinds = dict(read(tree, by_type=True).zones[0].by_type)
    assert list(kinds) == ["Unmovable", "Movable", "CMA"]
    assert kinds["Movable"] == (100_000, 3, 5, 2, 1, 0, 0, 0, 1, 0, 82)
    assert kinds["CMA"][9:] == (1, 8)
    assert read(tree).zones[0].by_type == ()


def test_hugetlb_pools_of_nodes(tree: Tree) -> None:
    for node, size, total, free in ((0, 2048, 64, 3), (1, 1048576, 2, 0)):
        top = f"sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB"
        tree.write(f"{top}/nr_hugepages", f"{total}\n")
        tree.write(f"{top}/free_hugepages", f"{free}\n")
    assert read(tree).pools == (
        HugetlbPool(node=0, page_bytes=2 << 20, total=64, free=3),
        HugetlbPool(node=1, page_bytes=1 << 30, total=2, free=0),
    )


def test_without_zoneinfo_nothing_can_be_said(tree: Tree) -> None:
    (tree.proc / "zoneinfo").unlink()
    with pytest.raises(CannotRunError, match="zoneinfo"):
        read(tree)
