"""Which VM does a process run? Pure: evidence in, Vm or None out (resolvers.py)."""

from pinwatch.attribute.libvirt import wanted as wanted
from pinwatch.attribute.programs import Programs as Programs
from pinwatch.attribute.resolvers import resolve as resolve
