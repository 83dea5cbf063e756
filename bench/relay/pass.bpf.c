// SPDX-License-Identifier: Apache-2.0
// Lets every frame pass. A veth end hands frames that its peer sent by XDP_TX or redirect to the stack
// only if it has a program itself; the generator's end gets this one.
//
// clang -O2 -g0 -target bpf -c pass.bpf.c -o pass.bpf.o
struct xdp_md;

__attribute__((section("xdp"), used)) int pass(struct xdp_md *frame)
{
	(void)frame;
	return 2; // XDP_PASS
}

char gpl_free[] __attribute__((section("license"), used)) = "Apache-2.0";
