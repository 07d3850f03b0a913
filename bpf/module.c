/* SPDX-License-Identifier: GPL-2.0 */
/*
 * module.c - a module was loaded; hooks that wait for it can be attached now.
 */

RAW_TP(module_load)	/* struct module * */
{
	struct module *module = (void *)ctx->args[0];
	struct pw_module_record *record = events.ringbuf_reserve(sizeof(*record));

	if (!record) {
		lost(PW_LOSS_RING_FULL);
		return 0;
	}
	fill_head(&record->head, PW_RECORD_MODULE);
	bpf_probe_read_kernel_str(&record->name, sizeof(record->name), &module->name);
	events.ringbuf_submit(record, 0);
	return 0;
}
