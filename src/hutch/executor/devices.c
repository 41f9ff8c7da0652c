/* Interfaces of the host's that were lent to a container: they go back before its network namespace ends, which would send
 * hardware home by itself, and would delete everything else. */
#include "executor.h"

/* An interface's number, by its name; or an error. */
static long link_index(long fd, const char *name)
{
    struct {
        u32 size;
        u16 type, flags;
        u32 sequence, port;
        u8 info[16];
        u16 length, kind;
        char name[16];
    } request;
    i32 index;
    memset(&request, 0, sizeof request);
    request.size = sizeof request;
    request.type = 18 /* RTM_GETLINK */;
    request.flags = 1 /* NLM_F_REQUEST */;
    request.length = 20;
    request.kind = 3 /* IFLA_IFNAME */;
    if (length(name) >= sizeof request.name) return -ENODEV;
    memcpy(request.name, name, length(name));
    long r = exchange(fd, &request, sizeof request);
    if (r < 0) return r;
    memcpy(&index, netlink_answer + 20, 4);
    return index;
}

static long change_link(long fd, i32 index, u32 flags, const char *name)
{
    struct {
        u32 size;
        u16 type, flags;
        u32 sequence, port;
        u8 family, pad;
        u16 device;
        i32 index;
        u32 on, change;
        u16 length, kind;
        char name[16];
        u16 process_length, process_kind;
        u32 process;
    } request;
    memset(&request, 0, sizeof request);
    request.size = name ? sizeof request : 32;
    request.type = 16 /* RTM_NEWLINK */;
    request.flags = 1 | 4 /* NLM_F_ACK */;
    request.index = index;
    request.on = flags;
    request.change = flags;
    if (name) {
        request.length = 20;
        request.kind = 3 /* IFLA_IFNAME */;
        memcpy(request.name, name, length(name));
        request.process_length = 8;
        request.process_kind = 19 /* IFLA_NET_NS_PID */;
        request.process = (u32)sys(__NR_getpid);
    }
    return exchange(fd, &request, request.size);
}

long host_return_device(struct op *op, int undo)
{
    static u8 datagram[256];
    i64 place = num(op);
    const char *inside = str(op, 0), *outside = str(op, 0), *data;
    i64 up = num(op), count = num(op);
    word size;
    if (!undo) {
        keep(place);
        return length(outside) < 16 ? 0 : -EINVAL;
    }
    long own = openat_(AT_FDCWD, "/proc/self/ns/net", O_RDONLY | O_CLOEXEC, 0), there = -1, here = -1, index, r;
    if (own < 0 || slot_at(place) < 0) {
        close_(own);
        return -EBADF;
    }
    /* who opened a netlink socket is asked for the right to both namespaces: so this process opens it, not the container's */
    if ((r = sys(__NR_setns, slot_at(place), CLONE_NEWNET)) == 0) {
        there = sys(__NR_socket, 16 /* AF_NETLINK */, 3 /* SOCK_RAW */ | SOCK_CLOEXEC_, 0);
        if (sys(__NR_setns, own, CLONE_NEWNET) < 0) exit_(1); /* in the wrong namespace nothing more can be right */
    }
    close_(own);
    index = there < 0 ? there : link_index(there, inside);
    r = index < 0 ? index : change_link(there, (i32)index, 0, outside);
    close_(there);
    if (r < 0) return r == -ENODEV ? 0 : r; /* it never came, or has been unplugged */
    here = sys(__NR_socket, 16, 3 | SOCK_CLOEXEC_, 0);
    index = here < 0 ? here : link_index(here, outside);
    for (; index > 0 && count > 0 && !op->broken; count--) {
        data = str(op, &size);
        if (size < 24 || size > sizeof datagram) continue;
        memcpy(datagram, data, size);
        memcpy(datagram + 20, &index, 4); /* struct ifaddrmsg: the number may be another one than it was */
        exchange(here, datagram, size);
    }
    if (index > 0 && up) change_link(here, (i32)index, 1 /* IFF_UP */, 0);
    return close_(here);
}
