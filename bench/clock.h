/* What the stand-in engine and the load share: one clock, so that a stamp of the one can be read by the other; sockets. */

#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define STAMP_MARK " at " /* In a token's text; the clock follows in 16 hex digits. */
#define STAMP_DIGITS 16

static inline void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* CLOCK_MONOTONIC in nanoseconds; Python's time.monotonic_ns is the same clock. */
static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* Timers as exact as the kernel has them, as many files as it lets us have. */
static inline void prepare_process(void)
{
    struct rlimit files;
    prctl(PR_SET_TIMERSLACK, 1UL);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

/* Waits for events at most until `until`; for ever when that is negative. */
static inline int await_events(int poll, struct epoll_event *events, int most, int64_t until)
{
    int64_t left = until - now_ns();
    if (left < 0) left = 0;
    struct timespec wait = {left / SECOND, left % SECOND};
    int count = epoll_pwait2(poll, events, most, until < 0 ? NULL : &wait, NULL);
    if (count < 0 && errno != EINTR) fail("epoll_pwait2");
    return count < 0 ? 0 : count;
}

static inline void set_nodelay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

#endif
