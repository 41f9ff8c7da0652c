/* Inside a machine: its interfaces become the container's. */
#include "executor.h"

static long netlink_open(void) { return sys(__NR_socket, 16 /* AF_NETLINK */, 3 | SOCK_CLOEXEC_, 0); }

/* Send messages that each ask for an acknowledgement; 0, or the first error. */
long netlink_send(long fd, char *data, u32 size)
{
    LARGE static char answer[8192];
    for (u32 at = 0; at + 16 <= size;) {
        u32 one;
        memcpy(&one, data + at, 4);
        if (!one) break; /* the room for them is larger */
        if (one < 16 || one > size - at) return -EBADMSG;
        long r = sys(__NR_sendto, fd, data + at, one, 0, 0, 0);
        if (r >= 0) r = sys(__NR_recvfrom, fd, answer, sizeof answer, 0, 0, 0);
        i32 error = 0;
        if (r >= 20) memcpy(&error, answer + 16, 4); /* struct nlmsgerr */
        if (r < 0) return r;
        if (error && error != -EEXIST && error != -EADDRNOTAVAIL) return error; /* the latter: the container has removed it itself */
        at += (one + 3) & ~3U;
    }
    return 0;
}

/* The interface whose MAC is the one that QEMU was told to give number i, by its name; 0: there is none (yet). */
static int interface_named(u32 i, char *name)
{
    for (u32 candidate = 0; candidate < 16; candidate++) {
        TEXT(path, 64);
        char mac[18];
        puts_(&path, "/sys/class/net/eth");
        putn(&path, candidate);
        puts_(&path, "/address");
        long fd = openat_(AT_FDCWD, path_, O_RDONLY | O_CLOEXEC, 0), n = fd < 0 ? fd : sys(__NR_read, fd, mac, sizeof mac);
        close_(fd);
        if (n < 17 || (u32)(mac[15] - '0') != i / 10 || (u32)(mac[16] - '0') != i % 10) continue;
        struct text found = {name, 0, 16, 0};
        puts_(&found, "eth");
        putn(&found, candidate);
        return 1;
    }
    return 0;
}

/* The machine's interfaces go to the container's network namespace, and are set there as the host has said. */
long connect_container(long pid, long netlink)
{
    long own = netlink_open(), r = own < 0 ? own : 0;
    for (u32 i = 0; i < vm.interfaces && r == 0; i++) {
        struct {
            u32 size;
            u16 type, flags;
            u32 sequence, port;
            u8 family, pad;
            u16 device_type;
            i32 index;
            u32 up, change;
            u16 name_size, name_type;
            char name[16];
            u16 pid_size, pid_type;
            u32 pid;
            u16 new_size, new_type;
            u32 new_index;
        } move = {.size = sizeof move, .type = 16 /* RTM_NEWLINK */, .flags = 1 | 4 /* NLM_F_REQUEST | NLM_F_ACK */, .name_size = 20,
                  .name_type = 3 /* IFLA_IFNAME */, .pid_size = 8, .pid_type = 19 /* IFLA_NET_NS_PID */, .pid = (u32)pid, .new_size = 8,
                  .new_type = 49 /* IFLA_NEW_IFINDEX */, .new_index = 2 + i};
        for (int tries = 0; !interface_named(i, move.name); tries++) {
            if (tries > 1000) {
                close_(own);
                return -ENODEV;
            }
            pause_(1000000);
        }
        r = netlink_send(own, (char *)&move, sizeof move);
    }
    close_(own);
    if (r == 0) vm.netlink = sys(__NR_fcntl, netlink, 1030 /* F_DUPFD_CLOEXEC */, 0);
    return r == 0 ? netlink_send(netlink, vm_network, vm.network_size) : r;
}
