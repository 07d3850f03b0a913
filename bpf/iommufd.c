/* SPDX-License-Identifier: GPL-2.0 */
/*
 * iommufd.c - IOMMU_IOAS_MAP pins when a device is attached already; else attaching one pins all
 * that was mapped before.
 */

#ifdef SYM_iommufd_map
ENTRY(iommufd_map)	/* iopt_map_user_pages(ictx, iopt, iova, uptr, length, prot, flags) */
{
	struct pw_frame *frame = open_operation(ctx, PW_SOURCE_IOMMUFD);

	if (frame)
		add_memory(frame, ARG(iommufd_map, 3), ARG(iommufd_map, 4));
	return 0;
}
#endif

#ifdef SYM_iommufd_map_file
ENTRY(iommufd_map_file)	/* iopt_map_file_pages(ictx, iopt, iova, fd, start, length, ...) */
{
	struct pw_frame *frame = open_operation(ctx, PW_SOURCE_IOMMUFD);

	if (frame)
		add_memory(frame, ARG(iommufd_map_file, 4), ARG(iommufd_map_file, 5));
	return 0;
}
#endif

#ifdef SYM_iommufd_attach
ENTRY(iommufd_attach)	/* iopt_table_add_domain(iopt, domain) */
{
	struct pw_frame *frame = open_operation(ctx, PW_SOURCE_IOMMUFD);

	if (frame)
		frame->counted = 1;	/* when they were mapped: the fast path may pin them unseen */
	return 0;
}
#endif
