/* SPDX-License-Identifier: GPL-2.0 */
/*
 * vfio.c - VFIO type1: one VFIO_IOMMU_MAP_DMA is one pin operation. The pins under it come in
 * batches of at most 512 pages, so the map is probed at the ioctl and nowhere below.
 */

#ifdef SYM_vfio_map
#define VFIO_IOMMU_MAP_DMA 0x3b71

struct vfio_iommu_type1_dma_map {	/* include/uapi/linux/vfio.h */
	u32 argsz;
	u32 flags;
	u64 vaddr;
	u64 iova;
	u64 size;
};

ENTRY(vfio_map)	/* vfio_iommu_type1_ioctl(iommu_data, cmd, arg) */
{
	struct vfio_iommu_type1_dma_map map = {};
	struct pw_frame *frame;

	if ((u32)ARG(vfio_map, 1) != VFIO_IOMMU_MAP_DMA)
		return 0;
	frame = open_operation(ctx, PW_SOURCE_VFIO_TYPE1);
	if (!frame)
		return 0;
	if (bpf_probe_read_user(&map, sizeof(map), (void *)ARG(vfio_map, 2)))
		lost(PW_LOSS_READ_FAULT);
	frame->vaddr = map.vaddr;
	frame->iova = map.iova;
	frame->length = map.size;
	frame->flags = map.flags;
	return 0;
}
#endif
