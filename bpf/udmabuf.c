/* SPDX-License-Identifier: GPL-2.0 */
/*
 * udmabuf.c - a DMA buffer made of memfd memory: guest memory shared with a GPU or a display.
 */

#ifdef SYM_udmabuf
#define UDMABUF_CREATE 0x40187542
#define UDMABUF_CREATE_LIST 0x40087543

struct udmabuf_create {	/* include/uapi/linux/udmabuf.h */
	u32 memfd;
	u32 flags;
	u64 offset;
	u64 size;
};

ENTRY(udmabuf)	/* udmabuf_ioctl(file, cmd, arg) */
{
	struct udmabuf_create create = {};
	u32 command = ARG(udmabuf, 1);
	struct pw_frame *frame;

	if (command != UDMABUF_CREATE && command != UDMABUF_CREATE_LIST)
		return 0;
	frame = open_operation(ctx, PW_SOURCE_UDMABUF);
	if (!frame || command != UDMABUF_CREATE)
		return 0;
	if (bpf_probe_read_user(&create, sizeof(create), (void *)ARG(udmabuf, 2)))
		lost(PW_LOSS_READ_FAULT);
	frame->vaddr = create.offset;	/* in the memfd: nothing need be mapped */
	frame->length = create.size;
	return 0;
}
#endif
