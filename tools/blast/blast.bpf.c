// SPDX-License-Identifier: Apache-2.0
//
// The packets of `jackfield load --frames`, made and counted in the kernel.
//
//      send: run again and again on frames of its own by BPF_PROG_TEST_RUN (live frames), and sends those that
//            are due by the interface, the streams in turn
//      hear: on that interface; counts the packets that come back, stream by stream, and drops them
//
// Layouts are shared with src/load/frames.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Apache-2.0";

// Streams that there may be.
#define STREAMS 16384
// Packets sent before the clock is looked at again.
#define SENDS 16
// Numbers behind the highest one whose arrival is remembered.
#define REMEMBERED 64
// The marks of a packet that counts and of one that is sent before anything does.
#define MARK 0x4a41434c
#define MARK_WARMING 0x4a41434d
// Where things lie in a frame: RTP behind Ethernet, IPv4 and UDP; behind RTP the time (not used here), the
// stream, the packet's number, the mark.
#define CHECK_AT 40
#define RTP_AT 42
#define SEQUENCE_AT (RTP_AT + 2)
#define TIMESTAMP_AT (RTP_AT + 4)
#define STAMP_AT (RTP_AT + 12)
#define STREAM_AT (STAMP_AT + 8)
#define NUMBER_AT (STAMP_AT + 12)
#define MARK_AT (STAMP_AT + 16)
#define HEAD_WORDS 10
// Timestamp units of a packet of 20 ms.
#define UNITS 160

struct stream {
	// The first bytes of its frames; what varies is 0 in them.
	__u64 head[HEAD_WORDS];
	// The ones' complement sum of UDP with its pseudo header, over what does not vary.
	__u32 sum;
	// Of its newest packet.
	__u32 number;
	// Where it hears its peer.
	__be32 ip;
	__be16 port;
	__u16 reserved;
	__u64 reserved_too[4];
};

// The packets of one stream that came back.
struct arrivals {
	// Bit n: the number `highest - n` has arrived.
	__u64 seen;
	__u64 received;
	__u64 again;
	__u64 late;
	// At the address of another than its peer.
	__u64 stray;
	__u32 highest;
	__u32 reserved;
	__u64 reserved_too[2];
};

// When packets are due. Times are nanoseconds of CLOCK_MONOTONIC.
struct pace {
	__u64 begin;
	__u64 first;
	__u64 last;
	// Packets a second.
	__u64 rate;
	// Packets later than this many are not sent any more.
	__u64 latest;
	// Packets that were due and are sent or missed.
	__u64 done;
	__u64 sent;
	__u64 missed;
	// Packets that may be sent before the clock is looked at again.
	__u32 credit;
	__u32 streams;
	__u32 next;
	__u32 counting;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STREAMS);
	__type(key, __u32);
	__type(value, struct stream);
} streams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, STREAMS);
	__type(key, __u32);
	__type(value, struct arrivals);
} heard SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pace);
} paces SEC(".maps");

// How many packets may be sent now; at most SENDS.
static __always_inline __u32 credit(struct pace *pace)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 due;

	if (now < pace->begin || now >= pace->last)
		return 0;
	due = (now - pace->begin) * pace->rate / 1000000000 - pace->done;
	pace->counting = now >= pace->first;
	if (due > pace->latest) {
		__u64 missed = due - pace->latest;

		pace->done += missed;
		if (pace->counting)
			pace->missed += missed;
		due = pace->latest;
	}
	return due < SENDS ? due : SENDS;
}

SEC("xdp")
int send(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 place = 0;
	struct pace *pace = bpf_map_lookup_elem(&paces, &place);
	struct stream *stream;
	__u32 number, mark, sum;
	__be32 word;
	__be16 half;

	if (!pace || data + HEAD_WORDS * 8 > (__u8 *)end)
		return XDP_DROP;
	if (!pace->credit) {
		pace->credit = credit(pace);
		if (!pace->credit)
			return XDP_DROP;
	}
	place = pace->next;
	stream = bpf_map_lookup_elem(&streams, &place);
	if (!stream)
		return XDP_DROP;
	pace->credit--;
	pace->done++;
	pace->sent += pace->counting;
	pace->next = place + 1 < pace->streams ? place + 1 : 0;
	number = ++stream->number;
	mark = bpf_htonl(pace->counting ? MARK : MARK_WARMING);
#pragma unroll
	for (int i = 0; i < HEAD_WORDS; i++)
		((__u64 *)data)[i] = stream->head[i];
	half = bpf_htons(number);
	*(__be16 *)(data + SEQUENCE_AT) = half;
	sum = stream->sum + half;
	word = bpf_htonl(number * UNITS);
	*(__be32 *)(data + TIMESTAMP_AT) = word;
	sum += (word & 0xffff) + (word >> 16);
	word = bpf_htonl(number);
	*(__be32 *)(data + NUMBER_AT) = word;
	sum += (word & 0xffff) + (word >> 16);
	*(__be32 *)(data + MARK_AT) = mark;
	sum += (mark & 0xffff) + (mark >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	half = ~(__u16)(sum + (sum >> 16));
	// A sum of zero is sent as its other zero (RFC 768).
	*(__be16 *)(data + CHECK_AT) = half ? half : 0xffff;
	return XDP_TX;
}

static __always_inline void note(struct arrivals *arrivals, __u32 number, int counts)
{
	__u32 behind = arrivals->highest - number;

	if (number > arrivals->highest) {
		__u32 step = number - arrivals->highest;

		arrivals->seen = (step < REMEMBERED ? arrivals->seen << step : 0) | 1;
		arrivals->highest = number;
	} else if (behind >= REMEMBERED || arrivals->seen >> behind & 1) {
		arrivals->again += counts;
		return;
	} else {
		arrivals->seen |= 1ULL << behind;
		arrivals->late += counts;
	}
	arrivals->received += counts;
}

SEC("xdp")
int hear(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = (void *)data;
	struct iphdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct arrivals *arrivals;
	struct stream *hearer;
	__u32 mark, sender, at;

	if (data + HEAD_WORDS * 8 > (__u8 *)end)
		return XDP_PASS;
	if (ethernet->h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45 ||
	    ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
	mark = bpf_ntohl(*(__be32 *)(data + MARK_AT));
	if (mark != MARK && mark != MARK_WARMING)
		return XDP_PASS;
	sender = bpf_ntohl(*(__be32 *)(data + STREAM_AT));
	at = sender ^ 1;
	hearer = bpf_map_lookup_elem(&streams, &at);
	arrivals = bpf_map_lookup_elem(&heard, &sender);
	if (!hearer || !arrivals)
		return XDP_PASS;
	if (ip->daddr != hearer->ip || udp->dest != hearer->port)
		arrivals->stray += 1;
	else
		note(arrivals, bpf_ntohl(*(__be32 *)(data + NUMBER_AT)), mark == MARK);
	return XDP_DROP;
}
