/* SPDX-License-Identifier: GPL-2.0 */
/*
 * peek.c - what lies at an address of the kernel. Run by hand when all is loaded (BPF_PROG_RUN), never
 * attached: user space reads tables that no file shows, with the offsets that BTF gives.
 */

struct peek {
	u8 bytes[PEEK_SIZE];
};

BPF_ARRAY(peeked, struct peek, 1);

RAW_TP(peek)	/* the address */
{
	u32 first = 0;
	struct peek *into = peeked.lookup(&first);

	return into && !bpf_probe_read_kernel(into, sizeof(*into), (void *)ctx->args[0]);
}
