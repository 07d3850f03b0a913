/* SPDX-License-Identifier: GPL-2.0 */
/*
 * sev.c - KVM on AMD pins the memory of an encrypted VM, region by region.
 */

#ifdef SYM_sev_region
struct kvm_enc_region {	/* include/uapi/linux/kvm.h */
	u64 addr;
	u64 size;
};

ENTRY(sev_region)	/* sev_mem_enc_register_region(kvm, range): the kernel's copy */
{
	struct kvm_enc_region *range = (void *)ARG(sev_region, 1);
	struct pw_frame *frame = open_operation(ctx, PW_SOURCE_SEV);

	if (frame)
		add_memory(frame, KREAD(range, addr), KREAD(range, size));
	return 0;
}
#endif
