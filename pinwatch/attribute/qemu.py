"""What a QEMU command line says about its VM. Pure: arguments in, text out.

`-name guest=NAME,debug-threads=on` and `-name NAME` (a comma inside a value is doubled),
`-uuid UUID` or `-smbios type=1,uuid=UUID` (qemu(1)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pinwatch.attribute import options


def guest_name(cmdline: Sequence[str]) -> str:
    """The guest's name; a later -name adds to an earlier one."""
    given = [
        name
        for value in options.values(cmdline, "-name", "--name")
        if (name := options.fields(options.split_doubled(value), "guest").get("guest"))
    ]
    return given[-1] if given else ""


def uuid(cmdline: Sequence[str]) -> str:
    """From -uuid, else from the SMBIOS system table."""
    given = options.last(cmdline, "-uuid", "--uuid")
    return given or next((t["uuid"] for t in _system_tables(cmdline) if "uuid" in t), "")


def product(cmdline: Sequence[str]) -> str:
    """The product that SMBIOS shows the guest."""
    return next((t["product"] for t in _system_tables(cmdline) if "product" in t), "")


def _system_tables(cmdline: Sequence[str]) -> Iterator[dict[str, str]]:
    tables = (
        options.fields(options.split_doubled(value), "type")
        for value in options.values(cmdline, "-smbios", "--smbios")
    )
    return (table for table in tables if table.get("type") == "1")


def is_probe(cmdline: Sequence[str]) -> bool:
    """`-machine none` runs no guest: libvirt asks such a QEMU what it can do."""
    machines = options.values(cmdline, "-machine", "--machine", "-M", "--M")
    return any(
        options.fields(options.split_doubled(machine), "type").get("type") == "none"
        for machine in machines
    )
