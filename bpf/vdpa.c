/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vdpa.c - vhost-vdpa pins what the VMM maps for a vDPA device; VDUSE the bounce buffer of one that
 * is implemented in user space.
 */

#ifdef SYM_vhost_vdpa
#define VHOST_IOTLB_UPDATE 2

struct vhost_iotlb_msg {	/* include/uapi/linux/vhost_types.h */
	u64 iova;
	u64 size;
	u64 uaddr;
	u8 perm;
	u8 type;
};

ENTRY(vhost_vdpa)	/* vhost_vdpa_process_iotlb_msg(vhost_dev, asid, msg) */
{
	struct vhost_iotlb_msg *message = (void *)ARG(vhost_vdpa, 2);
	struct pw_frame *frame;

	if (KREAD(message, type) != VHOST_IOTLB_UPDATE)
		return 0;
	frame = open_operation(ctx, PW_SOURCE_VHOST_VDPA);
	if (!frame)
		return 0;
	frame->vaddr = KREAD(message, uaddr);
	frame->iova = KREAD(message, iova);
	frame->length = KREAD(message, size);
	return 0;
}
#endif

#ifdef SYM_vduse
#define VDUSE_IOTLB_REG_UMEM 0x40308118

struct vduse_iova_umem {	/* include/uapi/linux/vduse.h, its beginning */
	u64 uaddr;
	u64 iova;
	u64 size;
};

ENTRY(vduse)	/* vduse_dev_ioctl(file, cmd, arg) */
{
	struct vduse_iova_umem umem = {};
	struct pw_frame *frame;

	if ((u32)ARG(vduse, 1) != VDUSE_IOTLB_REG_UMEM)
		return 0;
	frame = open_operation(ctx, PW_SOURCE_VDUSE);
	if (!frame)
		return 0;
	if (bpf_probe_read_user(&umem, sizeof(umem), (void *)ARG(vduse, 2)))
		lost(PW_LOSS_READ_FAULT);
	frame->vaddr = umem.uaddr;
	frame->iova = umem.iova;
	frame->length = umem.size;
	return 0;
}
#endif
