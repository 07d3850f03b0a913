/* SPDX-License-Identifier: GPL-2.0 */
/*
 * af_xdp.c - the memory of an AF_XDP socket.
 */

#ifdef SYM_xdp_umem
struct xdp_umem_reg {	/* include/uapi/linux/if_xdp.h, its beginning */
	u64 addr;
	u64 len;
};

ENTRY(xdp_umem)	/* xdp_umem_create(mr): the kernel's copy of the request */
{
	struct xdp_umem_reg *request = (void *)plain(ARG(xdp_umem, 0));
	struct pw_frame *frame = open_operation(ctx, PW_SOURCE_AF_XDP);

	if (frame)
		add_memory(frame, KREAD(request, addr), KREAD(request, len));
	return 0;
}
#endif
