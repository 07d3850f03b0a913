/* SPDX-License-Identifier: GPL-2.0 */
/*
 * rdma.c - memory that an RDMA device may reach: memory regions, and queues in user memory.
 */

#ifdef SYM_rdma_umem
ENTRY(rdma_umem)	/* ib_umem_get(device, addr, size, access) */
{
	struct pw_frame *frame = open_operation(ctx, PW_SOURCE_RDMA);

	if (frame)
		add_memory(frame, ARG(rdma_umem, 1), ARG(rdma_umem, 2));
	return 0;
}
#endif
