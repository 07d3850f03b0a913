/* SPDX-License-Identifier: GPL-2.0 */
/*
 * host.c - failures of the whole host that are no pin's own: contiguous allocation from CMA.
 */

BPF_HASH(cma_failures, struct pw_area, u64, 64);

RAW_TP(cma_finish)	/* name, pfn, page, ... */
{
	struct pw_area area = {};
	u64 zero = 0, *count;

	if (ctx->args[2])
		return 0;
	bpf_probe_read_kernel_str(&area.name, sizeof(area.name), (void *)ctx->args[0]);
	count = cma_failures.lookup_or_try_init(&area, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}
