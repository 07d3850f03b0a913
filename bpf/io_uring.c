/* SPDX-License-Identifier: GPL-2.0 */
/*
 * io_uring.c - IORING_REGISTER_BUFFERS pins each of its buffers; memory regions and updates pin one.
 */

#ifdef SYM_io_register
ENTRY(io_register)	/* io_sqe_buffers_register(ctx, arg, nr_args, tags) */
{
	open_operation(ctx, PW_SOURCE_IO_URING);
	return 0;
}
#endif

#ifdef SYM_io_pin
ENTRY(io_pin)	/* io_pin_pages(ubuf, len, npages) */
{
	u32 tid = current_tid();
	struct pw_frame *frame;

	open_operation(ctx, PW_SOURCE_IO_URING);	/* or it is one of a request's */
	frame = frames.lookup(&tid);
	if (frame)
		add_memory(frame, ARG(io_pin, 0), ARG(io_pin, 1));
	return 0;
}
#endif
