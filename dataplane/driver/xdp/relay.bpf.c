// SPDX-License-Identifier: Apache-2.0
//
// Relays the RTP of locked streams without waking the process.
//
//      frame -> Ethernet [802.1Q] -> IPv4 | IPv6 -> UDP to an even port
//            -> flows: our port -> row numbers; the one with our address, family and VLAN
//            -> rows: is it the locked source? is it the locked stream? -> count, rewrite, send
//
// What is not surely a packet of a locked stream goes to the stack (XDP_PASS), where the process judges it
// as ever: RTCP, fragments, IP options and extension headers, another SSRC, a jump of the sequence number.
// The one exception is a packet from another source to a locked port: dropped and counted, so that it costs
// nothing and nobody learns that the port is open (RTP Bleed).
//
// Layouts are shared with src/xdp/row.rs. The arithmetic is media/src/stream.rs's, but for jitter's samples.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

// A forward jump of this many is a new start of the sender, a packet this far behind is late (RFC 3550, A.1).
#define MAX_DROPOUT 3000
#define MAX_MISORDER 100
// Nanoseconds of one timestamp unit at 8 kHz.
#define NANOS_PER_UNIT 125000
// The largest step that jitter takes into account, in timestamp units.
#define MAX_DIFFERENCE (60 * 8000)
// Hops that a packet of ours may take: Linux's own default.
#define HOPS 64
// More fragments, or a fragment's offset; "don't fragment" may be set.
#define IP_FRAGMENT 0x3fff
#define NO_TELEPHONE_EVENT 0xff
#define NO_TAG 0xffff
#define FAMILY_4 4
#define FAMILY_6 6
// The clock is the dearest thing here, so that it is read for every so many packets of a stream only (a power
// of two), but at least once in so many timestamp units, which is as often at 20 ms a packet. A sample of so few
// counts for more: a fourth of jitter instead of a sixteenth, as a shift.
#define CLOCK_PACKETS 32
#define CLOCK_UNITS (CLOCK_PACKETS * 160)
#define JITTER_SHIFT 2
// Most packets meet the program with cold caches: the way of a packet of a stream is one straight line.
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

struct vlan_header {
	__be16 tci;
	__be16 protocol;
};

struct rtp_header {
	__u8 first;
	__u8 marker_and_type;
	__be16 sequence;
	__be32 timestamp;
	__be32 ssrc;
};

// Rows of each pair of ports, each number plus one, 0 for none: as many addresses may have the port in use.
#define SLOTS 8
#define PAIRS 32768
struct slots {
	__u32 row[PAIRS][SLOTS];
};

// Addresses and ports are as on the wire.
struct row {
	// All that a packet over IPv4 needs besides the counts.
	__be32 source4;
	__be32 local4;
	__be32 from4;
	__be32 to4;
	__be16 source_port;
	// The VLAN that packets come in on, NO_TAG for none.
	__u16 vlan_in;
	__be16 from_port;
	__be16 to_port;
	__be32 ssrc;
	// What ones' complement sums gain by the change of addresses and ports, and of the SSRC.
	__u32 ip_delta;
	__u32 udp_delta;
	__u8 family;
	__u8 telephone_event;
	__u8 spliced;
	// DSCP in its place in the byte of IPv4's type of service.
	__u8 tos;
	// The next hop's MAC address and, above it, the tag's 16 bits on the wire; one store changes both.
	__u64 hop;
	// Our MAC address and, above it, the protocol that follows it on the wire: a tag's or IP's.
	__u64 ours;
	__u32 ifindex;
	__u32 taken;

	__u64 packets;
	__u64 bytes;
	__u64 foreign;
	__u32 newest;
	__u32 transit;
	__u32 jitter;
	__u32 timestamp;
	// The timestamp of the packet that `transit` is of: the newest that the clock was read for.
	__u32 clocked;
	// The last one who was not heard; not all of one packet where several queues write.
	__be16 foreigner_port;
	__u16 reserved;
	__be32 foreigner[4];

	__be32 source[4];
	__be32 local[4];
	__be32 from[4];
	__be32 to[4];

	__be32 splice_ssrc;
	__u32 splice_timestamp;
	__u16 splice_sequence;
	// Kept for the process that adopts the row.
	__be16 local_port;
	__u32 reserved_too[13];
};

_Static_assert(sizeof(struct row) == 256, "four cache lines");
_Static_assert(__builtin_offsetof(struct row, packets) == 64, "the first of them");
_Static_assert(__builtin_offsetof(struct row, source) == 128, "IPv6's");
_Static_assert(__builtin_offsetof(struct row, splice_ssrc) == 192, "the last of them");

struct event {
	__u32 row;
	__u8 rtp[16];
};

// One entry of all pairs of ports, since where in an entry something is costs less than which entry it is in. Not a
// hash map: it takes more than twice as long, and the process writes without a system call.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slots);
} flows SEC(".maps");

// Their number is set by the loader.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct row);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

// Folds a ones' complement sum to 16 bits.
static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

// RFC 3550, A.1 and A.8; `ahead` of the newest is where the packet is. A stream's packets come on one queue,
// so nobody else writes here meanwhile.
static __always_inline void count(struct row *row, __u16 ahead, __u32 timestamp, __u16 bytes,
				  int marked)
{
	int is_newest = ahead < MAX_DROPOUT;

	// Jitter is that of the packets that the clock is read for, among them those whose timestamps say
	// little about when they came: the first of a talkspurt and those of events.
	if (unlikely(marked || !(row->packets % CLOCK_PACKETS) ||
		     timestamp - row->clocked >= CLOCK_UNITS)) {
		__u32 transit = (__u32)(bpf_ktime_get_ns() / NANOS_PER_UNIT) - timestamp;
		__s32 step = transit - row->transit;
		__u32 difference = step < 0 ? -(__u32)step : step;

		if (difference > MAX_DIFFERENCE)
			difference = MAX_DIFFERENCE;
		row->jitter = row->jitter -
			      ((row->jitter + (1 << JITTER_SHIFT) / 2) >> JITTER_SHIFT) +
			      (difference << (4 - JITTER_SHIFT));
		// Transit is of the newest packet, not of a late one.
		if (is_newest) {
			row->transit = transit;
			row->clocked = timestamp;
		}
	}
	if (likely(is_newest)) {
		row->newest += ahead;
		row->timestamp = timestamp;
	}
	row->packets += 1;
	row->bytes += bytes;
}

// Rewrites UDP and, with a splice, RTP.
static __always_inline void rewrite_udp(const struct row *row, struct udphdr *udp,
					struct rtp_header *rtp)
{
	__u32 sum = (__u16)~udp->check + row->udp_delta;

	udp->source = row->from_port;
	udp->dest = row->to_port;
	if (unlikely(row->spliced)) {
		__be16 sequence = bpf_htons(bpf_ntohs(rtp->sequence) + row->splice_sequence);
		__be32 timestamp = bpf_htonl(bpf_ntohl(rtp->timestamp) + row->splice_timestamp);
		__be32 old = ~rtp->timestamp;

		sum += (__u16)~rtp->sequence;
		sum += sequence;
		sum += (old & 0xffff) + (old >> 16);
		sum += (timestamp & 0xffff) + (timestamp >> 16);
		rtp->sequence = sequence;
		rtp->timestamp = timestamp;
		rtp->ssrc = row->splice_ssrc;
	}
	// No checksum stays none; one that comes out as zero is sent as its other zero (RFC 768).
	if (likely(udp->check)) {
		__u16 check = ~fold(sum);

		udp->check = check ? check : 0xffff;
	}
}

// An IP packet of ours: our hop limit, our DSCP, no congestion marks. Length, identification stay.
static __always_inline void rewrite_ipv4(const struct row *row, struct iphdr *ip)
{
	__u32 sum = (__u16)~ip->check + row->ip_delta;

	// The bytes beside the two are what they were found to be.
	sum += (__u16)~bpf_htons(0x4500 | ip->tos) + bpf_htons(0x4500 | row->tos);
	sum += (__u16)~bpf_htons(ip->ttl << 8 | IPPROTO_UDP) + bpf_htons(HOPS << 8 | IPPROTO_UDP);
	ip->tos = row->tos;
	ip->ttl = HOPS;
	ip->saddr = row->from4;
	ip->daddr = row->to4;
	ip->check = ~fold(sum);
}

static __always_inline void rewrite_ipv6(const struct row *row, struct ipv6hdr *ip)
{
	// Version, traffic class, and no flow label (RFC 6437: the label was its source's).
	*(__be32 *)ip = bpf_htonl(0x60000000 | (__u32)row->tos << 20);
	ip->hop_limit = HOPS;
	__builtin_memcpy(&ip->saddr, row->from, 16);
	__builtin_memcpy(&ip->daddr, row->to, 16);
}

// Sends the frame, its IP packet rewritten already, to the row's next hop.
static __always_inline int send(struct xdp_md *ctx, const struct row *row, int family,
				int tagged)
{
	__u64 hop = *(volatile const __u64 *)&row->hop;
	__u64 ours = row->ours;
	int tag = ours >> 48 == bpf_htons(ETH_P_8021Q);
	void *data, *end;

	if (unlikely(tag != tagged) && bpf_xdp_adjust_head(ctx, tag ? -4 : 4))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (unlikely(data + sizeof(struct ethhdr) + sizeof(struct vlan_header) > end))
		return XDP_DROP;
	// The second covers what the first writes too much.
	*(__u64 *)data = hop;
	*(__u64 *)(data + ETH_ALEN) = ours;
	if (unlikely(tag)) {
		*(__be16 *)(data + 14) = hop >> 48;
		*(__be16 *)(data + 16) =
			family == FAMILY_4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	}
	if (row->ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect_map(&ports, row->ifindex, XDP_DROP);
}

static __always_inline int is_same6(const __be32 *a, const __be32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

// The row of a packet to our address; its number goes to `found`.
static __always_inline struct row *find(int family, const __be32 *local, __be16 port, __u16 vlan,
					__u32 *found)
{
	__u32 pair = bpf_ntohs(port) >> 1;
	__u32 only = 0;
	struct slots *slots = bpf_map_lookup_elem(&flows, &only);

	if (!slots)
		return 0;
#pragma nounroll
	for (int i = 0; i < SLOTS; i++) {
		__u32 number = *(volatile __u32 *)&slots->row[pair][i];
		struct row *row;

		if (unlikely(!number))
			continue;
		*found = number - 1;
		row = bpf_map_lookup_elem(&rows, found);
		if (likely(row && row->family == family && row->vlan_in == vlan &&
			   (family == FAMILY_4 ? row->local4 == local[0]
					       : is_same6(row->local, local))))
			return row;
	}
	return 0;
}

// What all packets have to go through whose UDP begins at `udp`, inlined once for each family. `length` is
// UDP's as IP says it.
static __always_inline int relay_udp(struct xdp_md *ctx, int family, void *network,
				     struct udphdr *udp, const __be32 *source,
				     const __be32 *local, __u16 length, __u16 vlan)
{
	void *end = (void *)(long)ctx->data_end;
	struct rtp_header *rtp = (void *)(udp + 1);
	struct row *row;
	__u32 number = 0;
	__u16 ahead;
	int marked;

	if ((void *)rtp > end)
		return XDP_PASS;
	// RTP has the even port of a pair.
	if (udp->dest & bpf_htons(1))
		return XDP_PASS;
	row = find(family, local, udp->dest, vlan, &number);
	if (!row)
		return XDP_PASS;
	if (unlikely(udp->source != row->source_port ||
		     !(family == FAMILY_4 ? row->source4 == source[0]
					  : is_same6(row->source, source)))) {
		__sync_fetch_and_add(&row->foreign, 1);
		row->foreigner[0] = source[0];
		if (family == FAMILY_6) {
			row->foreigner[1] = source[1];
			row->foreigner[2] = source[2];
			row->foreigner[3] = source[3];
		}
		row->foreigner_port = udp->source;
		return XDP_DROP;
	}

	// What UDP says must be what IP says and lie in the frame; the frame may be padded.
	if (unlikely((void *)(rtp + 1) > end || bpf_ntohs(udp->len) != length ||
		     length < sizeof(*udp) + sizeof(*rtp) || (void *)udp + length > end))
		return XDP_PASS;
	// IPv6 knows no UDP without a checksum (RFC 8200, 8.1).
	if (family == FAMILY_6 && !udp->check)
		return XDP_PASS;
	if (unlikely(rtp->first >> 6 != 2 || rtp->ssrc != row->ssrc))
		return XDP_PASS;
	ahead = bpf_ntohs(rtp->sequence) - (__u16)row->newest;
	if (unlikely(ahead >= MAX_DROPOUT && (__u16)-ahead > MAX_MISORDER))
		return XDP_PASS;
	length -= sizeof(*udp);
	marked = rtp->marker_and_type >> 7;
	if (unlikely((rtp->marker_and_type & 0x7f) == row->telephone_event && length >= 16 &&
		     (void *)rtp + 16 <= end)) {
		struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

		// The process falls behind: it gets the packet itself, and relays it.
		if (!event)
			return XDP_PASS;
		event->row = number;
		__builtin_memcpy(event->rtp, rtp, 16);
		bpf_ringbuf_submit(event, 0);
		marked = 1;
	}

	count(row, ahead, bpf_ntohl(rtp->timestamp), length, marked);
	rewrite_udp(row, udp, rtp);
	if (family == FAMILY_4)
		rewrite_ipv4(row, network);
	else
		rewrite_ipv6(row, network);
	return send(ctx, row, family, vlan != NO_TAG);
}

SEC("xdp")
int relay(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	void *network = ethernet + 1;
	__u16 vlan = NO_TAG;
	__be16 protocol;

	if (network > end)
		return XDP_PASS;
	protocol = ethernet->h_proto;
	if (unlikely(protocol == bpf_htons(ETH_P_8021Q))) {
		struct vlan_header *tag = network;

		network = tag + 1;
		if (network > end)
			return XDP_PASS;
		vlan = bpf_ntohs(tag->tci) & 0xfff;
		protocol = tag->protocol;
	}
	if (likely(protocol == bpf_htons(ETH_P_IP))) {
		struct iphdr *ip = network;

		if ((void *)(ip + 1) > end || *(__u8 *)ip != 0x45 || ip->protocol != IPPROTO_UDP ||
		    ip->frag_off & bpf_htons(IP_FRAGMENT))
			return XDP_PASS;
		return relay_udp(ctx, FAMILY_4, ip, (void *)(ip + 1), &ip->saddr, &ip->daddr,
				 bpf_ntohs(ip->tot_len) - sizeof(*ip), vlan);
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = network;

		if ((void *)(ip + 1) > end || *(__u8 *)ip >> 4 != 6 || ip->nexthdr != IPPROTO_UDP)
			return XDP_PASS;
		return relay_udp(ctx, FAMILY_6, ip, (void *)(ip + 1), ip->saddr.in6_u.u6_addr32,
				 ip->daddr.in6_u.u6_addr32, bpf_ntohs(ip->payload_len), vlan);
	}
	return XDP_PASS;
}
