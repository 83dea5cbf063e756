// SPDX-License-Identifier: Apache-2.0
// Drops every frame: two instructions, to see what the kernel's own account of any program comes to.
//
// clang -O2 -g0 -target bpf -c drop.bpf.c -o drop.bpf.o
struct xdp_md;

__attribute__((section("xdp"), used)) int drop(struct xdp_md *frame)
{
	(void)frame;
	return 1; // XDP_DROP
}

char gpl_free[] __attribute__((section("license"), used)) = "Apache-2.0";
