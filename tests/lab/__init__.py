"""The lab: stock kernels under emulation, with real VFIO, on any machine.

`archive` gets packages, `kernels` and `tools` say which; `guest` boots a kernel and runs a command
in it, `channel` is the guest's own side, `outcome` says how it went.  By hand:
`python -m tests.lab --help`.
"""
