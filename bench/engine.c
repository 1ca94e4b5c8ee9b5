/* A stand-in for vLLM that costs next to nothing: HTTP/1.1 with keep-alive, answers in vLLM's shape from prepared text.
 *
 *     cc -O2 -o engine bench/engine.c
 *     ./engine [SERVED_AS [nagle]]       prints its port on loopback; ends with its input
 *
 * Whole: 16 tokens, 0.5 KB. Streamed: `max_tokens` tokens, one HTTP chunk of about 240 bytes and one write() each, on a fixed
 * grid of `vllm_xargs.interval_ms` (0: at once), a usage chunk where `include_usage` asks, a running total in each where
 * `continuous_usage_stats` does, `[DONE]`. Each token's text ends in the clock at its writing: clients see its time on the way.
 * All else of a stream's chunks stays the same, as an engine's does.
 * Another model than SERVED_AS is 404. GET knows /health and /v1/models, which routers ask for before they are ready. `nagle` leaves
 * TCP_NODELAY out, to show what that looks like.
 *
 *     curl -d '{"model":"bench-engine","stream":true,"max_tokens":3}' http://127.0.0.1:PORT/v1/chat/completions
 */

#define _GNU_SOURCE
#include "clock.h"
#include <signal.h>
#include <stdbool.h>

#define WHOLE_TOKENS 16
#define PROMPT_TOKENS 230
#define ID "chatcmpl-570700000000"
#define MOST_TOKENS 100000
#define MOST_REQUEST (64 << 20)
#define PIECE 1400 /* The last piece of a stream: a token, usage, [DONE] and the end. */
#define EVENTS 512

struct connection {
    int fd;
    char *in; /* What has come and is not answered yet. */
    size_t have, room;
    char out[PIECE]; /* What the socket did not take yet. */
    int out_at, out_length;
    bool streaming, closed, usage, running_usage, watched;
    long number, tokens;
    int64_t begun, interval;
    int heap_at; /* In `timers` while a token is due, else -1. */
    struct connection *next_closed;
};

static const char *served_as = "bench-engine";
static bool nodelay = true;
static int poll_fd;
static char whole[2048];
static int whole_length;

/* --- timers: a heap of connections, the next due first --- */

static struct connection **timers;
static int timer_count, timer_room;

static int64_t due(const struct connection *c)
{
    return c->begun + c->number * c->interval;
}

static void timer_put(int at, struct connection *c)
{
    timers[at] = c;
    c->heap_at = at;
}

static void timer_sift(int at)
{
    struct connection *c = timers[at];
    while (at > 0 && due(c) < due(timers[(at - 1) / 2])) {
        timer_put(at, timers[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (int child; (child = 2 * at + 1) < timer_count; at = child) {
        if (child + 1 < timer_count && due(timers[child + 1]) < due(timers[child])) child++;
        if (due(c) <= due(timers[child])) break;
        timer_put(at, timers[child]);
    }
    timer_put(at, c);
}

static void timer_remove(struct connection *c)
{
    int at = c->heap_at;
    if (at < 0) return;
    c->heap_at = -1;
    struct connection *last = timers[--timer_count];
    if (last != c) {
        timer_put(at, last);
        timer_sift(at);
    }
}

static void timer_set(struct connection *c)
{
    if (c->heap_at < 0) {
        if (timer_count == timer_room && !(timers = realloc(timers, (timer_room += 1024) * sizeof *timers))) fail("realloc");
        timer_put(timer_count++, c);
    }
    timer_sift(c->heap_at);
}

/* --- what is said --- */

static const char *const REFUSED = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 48\r\n\r\n"
                                   "{\"error\":{\"message\":\"no such model\",\"code\":404}}";
static const char *const STREAM_HEAD = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                                       "transfer-encoding: chunked\r\n\r\n";

static const char *const HEALTHY = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

static int usage_text(char *to, long tokens)
{
    return sprintf(to, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%ld,\"completion_tokens\":%ld}",
                   PROMPT_TOKENS, PROMPT_TOKENS + tokens, tokens);
}

static void prepare_whole(void)
{
    char text[128] = "", usage[128], body[1024];
    for (int n = 1, at = 0; n <= WHOLE_TOKENS; n++) at += sprintf(text + at, " w%d", n);
    usage_text(usage, WHOLE_TOKENS);
    int length = snprintf(body, sizeof body,
                          "{\"id\":\"" ID "\",\"object\":\"chat.completion\",\"created\":1790000000,"
                          "\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\","
                          "\"refusal\":null,\"tool_calls\":[],\"reasoning\":null},\"logprobs\":null,\"finish_reason\":\"stop\","
                          "\"stop_reason\":null}]%s}", served_as, text, usage);
    whole_length = snprintf(whole, sizeof whole,
                            "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %d\r\n"
                            "content-type: application/json\r\n\r\n%s", length, body);
}

static char *put(char *to, const char *text, size_t length)
{
    return (char *)memcpy(to, text, length) + length;
}

/* One event in one HTTP chunk: printf is too slow where a hundred thousand a second are wanted. */
static char *put_event(char *to, const char *members, size_t length)
{
    static char head[256];
    static size_t head_length;
    static const char digits[] = "0123456789abcdef";
    if (!head_length)
        head_length = (size_t)sprintf(head, "data: {\"id\":\"" ID "\",\"object\":\"chat.completion.chunk\","
                                            "\"created\":1790000000,\"model\":\"%.64s\",\"choices\":", served_as);
    size_t size = head_length + length + 3;
    if (size >> 8) *to++ = digits[size >> 8 & 15];
    *to++ = digits[size >> 4 & 15];
    *to++ = digits[size & 15];
    to = put(to, "\r\n", 2);
    to = put(to, head, head_length);
    to = put(to, members, length);
    return put(to, "}\n\n\r\n", 5);
}

/* The piece of the stream that is next, its end with the last token. */
static int next_piece(struct connection *c, char *to)
{
    char members[400], *begun = to;
    bool last = c->number == c->tokens;
    int length = sprintf(members, "[{\"index\":0,\"delta\":{\"content\":\" w%ld" STAMP_MARK "%0*llx\"},\"logprobs\":null,"
                                  "\"finish_reason\":%s,\"token_ids\":null}]",
                         c->number, STAMP_DIGITS, (unsigned long long)now_ns(), last ? "\"length\"" : "null");
    if (c->usage && c->running_usage) length += usage_text(members + length, c->number);
    to = put_event(to, members, (size_t)length);
    if (last && c->usage) {
        length = sprintf(members, "[]");
        length += usage_text(members + length, c->tokens);
        to = put_event(to, members, (size_t)length);
    }
    if (last) to = put(to, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 24);
    return (int)(to - begun);
}

/* --- connections --- */

static struct connection *closed_ones;

static void close_connection(struct connection *c)
{
    if (c->closed) return;
    timer_remove(c);
    close(c->fd);
    c->closed = true;
    c->next_closed = closed_ones; /* Freed after this round: an event for it may still be in hand. */
    closed_ones = c;
}

static void free_closed(void)
{
    while (closed_ones) {
        struct connection *c = closed_ones;
        closed_ones = c->next_closed;
        free(c->in);
        free(c);
    }
}

static void watch(struct connection *c, bool writable)
{
    struct epoll_event wanted = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    if (c->watched == writable) return;
    c->watched = writable;
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &wanted);
}

/* False when the socket took not all of it: the rest goes when it can. */
static bool say(struct connection *c, const char *text, int length)
{
    ssize_t sent = send(c->fd, text, (size_t)length, MSG_NOSIGNAL);
    if (sent == length) return true;
    if (sent < 0 && errno != EAGAIN) {
        close_connection(c);
        return false;
    }
    if (sent < 0) sent = 0;
    c->out_length = length - (int)sent;
    c->out_at = 0;
    memmove(c->out, text + sent, (size_t)c->out_length);
    watch(c, true);
    return false;
}

/* Every token that is due by now; sets the timer for the next. */
static void stream_on(struct connection *c, int64_t now)
{
    char piece[PIECE];
    while (c->number < c->tokens && due(c) <= now) {
        c->number++;
        int length = next_piece(c, piece);
        if (!say(c, piece, length)) break;
    }
    if (c->closed) return;
    if (c->number == c->tokens) {
        c->streaming = false;
        timer_remove(c);
    } else if (c->out_length) {
        timer_remove(c);
    } else {
        timer_set(c);
    }
}

/* What follows `"name":` in the request's JSON; the benchmark's prompts do not contain these names. */
static const char *value_of(const char *body, size_t length, const char *name)
{
    const char *end = body + length, *at = memmem(body, length, name, strlen(name));
    if (!at) return NULL;
    for (at += strlen(name); at < end && (*at == ' ' || *at == ':'); at++) {}
    return at < end ? at : NULL;
}

static bool is_true(const char *body, size_t length, const char *name)
{
    const char *value = value_of(body, length, name);
    return value && *value == 't';
}

static long number_of(const char *body, size_t length, const char *name, long otherwise)
{
    const char *value = value_of(body, length, name);
    return value && *value >= '0' && *value <= '9' ? atol(value) : otherwise;
}

static void answer(struct connection *c, const char *body, size_t length)
{
    const char *model = value_of(body, length, "\"model\"");
    size_t name = strlen(served_as);
    if (!model || (size_t)(body + length - model) < name + 2 || model[1 + name] != '"' || memcmp(model + 1, served_as, name)) {
        say(c, REFUSED, (int)strlen(REFUSED));
        return;
    }
    if (!is_true(body, length, "\"stream\"")) {
        say(c, whole, whole_length);
        return;
    }
    c->tokens = number_of(body, length, "\"max_tokens\"", WHOLE_TOKENS);
    if (c->tokens < 1 || c->tokens > MOST_TOKENS) c->tokens = WHOLE_TOKENS;
    c->interval = number_of(body, length, "\"interval_ms\"", 0) * 1000000;
    c->usage = is_true(body, length, "\"include_usage\"");
    c->running_usage = is_true(body, length, "\"continuous_usage_stats\"");
    c->number = 0;
    c->begun = now_ns();
    c->streaming = true;
    if (say(c, STREAM_HEAD, (int)strlen(STREAM_HEAD))) stream_on(c, c->begun);
}

static void answer_get(struct connection *c, const char *path)
{
    if (!strncmp(path, "/health ", 8)) {
        say(c, HEALTHY, (int)strlen(HEALTHY));
    } else if (!strncmp(path, "/v1/models ", 11)) {
        char body[256], response[512];
        int length = snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":1790000000,"
                                                 "\"owned_by\":\"vllm\",\"max_model_len\":%d}]}", served_as, MOST_TOKENS);
        length = snprintf(response, sizeof response, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: %d\r\n"
                                                     "content-type: application/json\r\n\r\n%s", length, body);
        say(c, response, length);
    } else {
        say(c, REFUSED, (int)strlen(REFUSED));
    }
}

/* Takes one request from what has come; false while it is not whole. */
static bool take_request(struct connection *c)
{
    char *head_end = memmem(c->in, c->have, "\r\n\r\n", 4);
    if (!head_end) return false;
    *head_end = 0;
    char *line = strcasestr(c->in, "\r\ncontent-length:");
    long length = line ? atol(line + 17) : 0;
    *head_end = '\r';
    size_t head = (size_t)(head_end - c->in) + 4;
    if (length < 0 || length > MOST_REQUEST) {
        close_connection(c);
        return false;
    }
    if (c->have < head + (size_t)length) return false;
    if (!strncmp(c->in, "GET ", 4)) answer_get(c, c->in + 4);
    else answer(c, c->in + head, (size_t)length);
    c->have -= head + (size_t)length;
    memmove(c->in, c->in + head + length, c->have);
    return true;
}

static void readable(struct connection *c)
{
    if (c->room - c->have < 4096 && !(c->in = realloc(c->in, c->room = 2 * c->room + 8192))) fail("realloc");
    ssize_t got = recv(c->fd, c->in + c->have, c->room - c->have - 1, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) close_connection(c);
        return;
    }
    c->have += (size_t)got;
}

static void writable(struct connection *c)
{
    int length = c->out_length;
    c->out_length = 0;
    if (!say(c, c->out + c->out_at, length)) return;
    watch(c, false);
    if (c->streaming) stream_on(c, now_ns());
}

static void serve(struct connection *c, uint32_t events)
{
    if (c->closed) return;
    if (events & EPOLLOUT && c->out_length) writable(c);
    if (!c->closed && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
    while (!c->closed && !c->streaming && !c->out_length && c->have && take_request(c)) {}
}

static void accept_all(int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) fail("calloc");
        c->fd = fd;
        c->heap_at = -1;
        if (nodelay) set_nodelay(fd);
        struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &wanted)) fail("epoll_ctl");
    }
}

static int listen_on_loopback(void)
{
    struct sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) fail("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **words)
{
    static struct epoll_event events[EVENTS];
    if (count > 1) served_as = words[1];
    nodelay = !(count > 2 && !strcmp(words[2], "nagle"));
    if (strlen(served_as) > 64) return fprintf(stderr, "engine: SERVED_AS has more than 64 characters\n"), 2;
    prepare_process();
    prepare_whole();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on_loopback();
    struct epoll_event on_listener = {.events = EPOLLIN, .data.ptr = &listener};
    struct epoll_event on_input = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &on_listener)) fail("epoll_ctl");
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &on_input);
    for (;;) {
        int seen = await_events(poll_fd, events, EVENTS, timer_count ? due(timers[0]) : -1);
        for (int n = 0; n < seen; n++) {
            char word[64];
            if (events[n].data.ptr == &listener) accept_all(listener);
            else if (events[n].data.ptr) serve(events[n].data.ptr, events[n].events);
            else if (read(STDIN_FILENO, word, sizeof word) <= 0) return 0;
        }
        for (int64_t now = now_ns(); timer_count && due(timers[0]) <= now;) {
            struct connection *c = timers[0];
            stream_on(c, now);
            while (!c->closed && !c->streaming && !c->out_length && c->have && take_request(c)) {}
        }
        free_closed();
    }
}
