/* The load: plays clients over kept-alive connections, checks every answer, and prints one JSON object of what it saw.
 *
 *     cc -O2 -o load bench/load.c
 *     ./load closed port=8000 connections=32 seconds=3                          saturation: each asks as soon as it is answered
 *     ./load closed port=8000 connections=32 seconds=3 tokens=100               the same with streams: a flood
 *     ./load open port=8000 connections=64 seconds=3 rate=50                    50 requests/s, come what may
 *     ./load open port=8000 connections=200 seconds=3 tokens=50 interval_ms=20  200 streams, one token each 20 ms
 *     ./load hold port=8000 connections=10000 rate=4000 seconds=120             4,000 new requests/s, then waits for the answers
 *
 * Further words: key=KEY model=NAME warm=SECONDS usage=0|1|2 (of streams: not asked, asked, asked in each chunk).
 * `open` keeps a plan: the latency of a request counts from when it should have been sent, also when no connection was
 * free then, so a gateway that stops does not hide the requests that it kept from being sent. Streams are paced the same
 * way: as many are begun as run at a time on so many connections, evenly spread. Requests planned within `warm` (0.5 s) count in no
 * latency. `hold` prints {"open":N} when all are sent; "answered" are times on CLOCK_MONOTONIC. Status 1 and "fault" at the first
 * wrong answer: status, framing, tokens and their order, usage where asked and only there, `[DONE]`, a lost connection.
 */

#define _GNU_SOURCE
#include "clock.h"
#include <stdarg.h>
#include <stdbool.h>

#define WHOLE_TOKENS 16
#define REQUEST_BYTES 1024
#define LATE (30 * SECOND) /* For the last answers after the end. */
#define READ 65536
#define EVENTS 512

struct series {
    int64_t *values;
    size_t count, room;
};

/* Where in HTTP's chunked framing the next byte belongs. */
enum framing { SIZE, SIZE_END, DATA, DATA_END, DATA_END_2, LAST, LAST_2, OVER };

struct client {
    int fd;
    bool busy, head_read, usage_seen, done_seen;
    enum framing framing;
    long left; /* Of the chunk, or of the body that has a length. */
    char *text; /* The head, then the event or body that is not whole yet. */
    size_t have, room;
    long number; /* Tokens so far. */
    int64_t planned, last_token;
    struct client *next_idle;
};

enum kind { CLOSED, OPEN, HOLD };

static enum kind kind;
static int port, poll_fd;
static long connections = 1, tokens, interval_ms, usage;
static double seconds = 3, warm = 0.5, rate;
static const char *key = "none", *model = "bench/model";

static char request[4096], whole_text[128];
static int request_length;
static struct client *clients, *idle;
static int64_t begun, warm_at, stop_at;
static long asked, answered, opened, answered_in_time, tokens_in_time, tokens_seen;
static struct series latency, first, transit, gap, answered_at;

/* --- what is told --- */

static void note(struct series *s, int64_t value)
{
    if (s->count == s->room && !(s->values = realloc(s->values, (s->room = 2 * s->room + 4096) * sizeof *s->values))) fail("realloc");
    s->values[s->count++] = value;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Nearest rank, in seconds. */
static double percentile(const struct series *s, double share)
{
    size_t rank = (size_t)(share * (double)s->count + 0.999999);
    return (double)s->values[rank ? rank - 1 : 0] / SECOND;
}

static void tell_series(const char *name, struct series *s)
{
    if (!s->count) {
        printf(",\"%s\":null", name);
        return;
    }
    qsort(s->values, s->count, sizeof *s->values, ascending);
    printf(",\"%s\":{\"count\":%zu,\"least\":%.9f,\"p50\":%.9f,\"p95\":%.9f,\"p99\":%.9f,\"most\":%.9f}", name, s->count,
           percentile(s, 0), percentile(s, 0.5), percentile(s, 0.95), percentile(s, 0.99), percentile(s, 1));
}

static void tell(void)
{
    double span = kind == HOLD ? (double)(now_ns() - begun) / SECOND : seconds;
    printf("{\"requests\":%ld,\"tokens\":%ld,\"rate\":%.3f,\"token_rate\":%.3f", answered, tokens_seen,
           (double)answered_in_time / span, (double)tokens_in_time / span);
    tell_series("latency", &latency);
    tell_series("first", &first);
    tell_series("transit", &transit);
    tell_series("gap", &gap);
    tell_series("answered", &answered_at);
    printf(",\"fault\":null}\n");
}

/* The first fault ends the run: nothing measured beside a wrong answer means anything. */
__attribute__((format(printf, 1, 2), noreturn)) static void fault(const char *format, ...)
{
    char text[2000];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    printf("{\"requests\":%ld,\"tokens\":%ld,\"fault\":\"", answered, tokens_seen);
    for (const unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < ' ' || *c > '~') printf("\\u%04x", *c);
        else printf(*c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    }
    printf("\"}\n");
    exit(1);
}

/* --- what is asked --- */

static void prepare_request(void)
{
    static const char filling[] = "How are you today? ";
    char body[2048], options[160] = "";
    if (tokens) {
        int at = sprintf(options, "\"stream\":true,\"max_tokens\":%ld,\"vllm_xargs\":{\"interval_ms\":%ld},", tokens, interval_ms);
        if (usage) sprintf(options + at, "\"stream_options\":{\"include_usage\":true%s},",
                           usage == 2 ? ",\"continuous_usage_stats\":true" : "");
    }
    int length = snprintf(body, sizeof body, "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"system\",\"content\":\"You answer briefly.\"},"
                                             "{\"role\":\"user\",\"content\":\"", model, options);
    for (int n = 0; length < REQUEST_BYTES - 4; n++) body[length++] = filling[n % (int)strlen(filling)];
    length += sprintf(body + length, "\"}]}");
    request_length = snprintf(request, sizeof request,
                              "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
                              "Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: %d\r\n\r\n%s",
                              port, key, length, body);
    for (int n = 1, at = 0; n <= WHOLE_TOKENS; n++) at += sprintf(whole_text + at, " w%d", n);
}

static void ask(struct client *c, int64_t planned)
{
    c->busy = true;
    c->head_read = c->usage_seen = c->done_seen = false;
    c->framing = SIZE;
    c->left = c->number = 0;
    c->have = 0;
    c->planned = planned;
    c->last_token = 0;
    asked++;
    if (send(c->fd, request, (size_t)request_length, MSG_NOSIGNAL) != request_length)
        fault("a request could not be sent at once: %s", strerror(errno));
}

static void connect_client(struct client *c)
{
    struct sockaddr_in to = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fault("no socket after %ld: %s", opened, strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) fault("connect after %ld: %s", opened, strerror(errno));
    set_nodelay(c->fd);
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &wanted)) fault("epoll_ctl: %s", strerror(errno));
    opened++;
}

/* --- what is answered --- */

static void over(struct client *c, int64_t now)
{
    if (tokens && !c->done_seen) fault("a stream ended without [DONE] after %ld tokens", c->number);
    if (c->have) fault("%zu bytes after the end: %.300s", c->have, c->text);
    answered++;
    answered_in_time += kind == HOLD || (now >= warm_at && now < stop_at);
    if (kind == HOLD) note(&answered_at, now);
    if (c->planned >= warm_at) note(&latency, now - c->planned);
    c->busy = false;
    if (kind == CLOSED && now < stop_at) {
        ask(c, now);
    } else {
        c->next_idle = idle;
        idle = c;
    }
}

static long count_of(const char *text, size_t length, const char *word)
{
    long count = 0;
    for (const char *at = text; (at = memmem(at, length - (size_t)(at - text), word, strlen(word))); at++) count++;
    return count;
}

static long number_after(const char *text, size_t length, const char *word)
{
    const char *at = memmem(text, length, word, strlen(word));
    return at ? atol(at + strlen(word)) : -1;
}

static void check_whole(struct client *c)
{
    const char *at = memmem(c->text, c->have, whole_text, strlen(whole_text));
    if (!at || at[strlen(whole_text)] != '"') fault("other text than \"%s\": %.*s", whole_text, (int)c->have, c->text);
    if (count_of(c->text, c->have, "\"completion_tokens\":") != 1 ||
        number_after(c->text, c->have, "\"completion_tokens\":") != WHOLE_TOKENS)
        fault("other usage than %d tokens: %.*s", WHOLE_TOKENS, (int)c->have, c->text);
    tokens_seen += WHOLE_TOKENS;
    c->have = 0;
}

static void check_usage(struct client *c, const char *event, size_t length, bool empty)
{
    bool there = memmem(event, length, "\"usage\":{", 9);
    if (there != (empty ? usage > 0 : usage == 2))
        fault("%s usage after %ld tokens: %.*s", there ? "a" : "no", c->number, (int)length, event);
    if (!there) return;
    if (number_after(event, length, "\"completion_tokens\":") != c->number)
        fault("other usage than %ld tokens: %.*s", c->number, (int)length, event);
    if (empty && c->usage_seen) fault("a second usage chunk");
    c->usage_seen |= empty;
}

static void take_token(struct client *c, const char *event, size_t length, int64_t now)
{
    c->number++;
    if (number_after(event, length, "\"content\":\" w") != c->number)
        fault("tokens lost, doubled or out of order: not %ld: %.*s", c->number, (int)length, event);
    check_usage(c, event, length, false);
    tokens_seen++;
    tokens_in_time += now >= warm_at && now < stop_at;
    if (c->planned >= warm_at) {
        const char *stamp = memmem(event, length, STAMP_MARK, strlen(STAMP_MARK));
        if (c->number == 1) note(&first, now - c->planned);
        else note(&gap, now - c->last_token);
        if (stamp) note(&transit, now - (int64_t)strtoull(strndupa(stamp + strlen(STAMP_MARK), STAMP_DIGITS), NULL, 16));
    }
    c->last_token = now;
}

static void take_event(struct client *c, const char *event, size_t length, int64_t now)
{
    if (*event == ':') return; /* A comment: the gateway says so that it waits. */
    if (c->done_seen || length < 6 || memcmp(event, "data: ", 6)) fault("no event, or one after [DONE]: %.*s", (int)length, event);
    if (length == 12 && !memcmp(event, "data: [DONE]", 12)) {
        if (c->number != tokens) fault("[DONE] after %ld of %ld tokens", c->number, tokens);
        if (usage && !c->usage_seen) fault("no usage chunk before [DONE]");
        c->done_seen = true;
    } else if (memmem(event, length, "\"choices\":[]", 12)) {
        check_usage(c, event, length, true);
        if (!usage) fault("a chunk without choices, though no usage was asked: %.*s", (int)length, event);
    } else {
        take_token(c, event, length, now);
    }
}

/* The whole events in what has come of the body. */
static void take_events(struct client *c, int64_t now)
{
    char *at = c->text, *end = c->text + c->have, *stop;
    while ((stop = memmem(at, (size_t)(end - at), "\n\n", 2))) {
        take_event(c, at, (size_t)(stop - at), now);
        at = stop + 2;
    }
    c->have = (size_t)(end - at);
    memmove(c->text, at, c->have);
}

static void keep(struct client *c, const char *data, size_t length)
{
    if (c->room - c->have < length + 1 && !(c->text = realloc(c->text, c->room = 2 * c->room + length + 1))) fail("realloc");
    memcpy(c->text + c->have, data, length);
    c->have += length;
    c->text[c->have] = 0;
}

/* One step in HTTP's framing by one byte that is no data. */
static void frame(struct client *c, char byte)
{
    static const char *const expected[] = {[SIZE_END] = "\n", [DATA_END] = "\r", [DATA_END_2] = "\n", [LAST] = "\r", [LAST_2] = "\n"};
    if (c->framing == SIZE) {
        if (byte == '\r') c->framing = SIZE_END;
        else if (byte >= '0' && byte <= '9') c->left = c->left * 16 + byte - '0';
        else if ((byte | 32) >= 'a' && (byte | 32) <= 'f') c->left = c->left * 16 + (byte | 32) - 'a' + 10;
        else fault("no chunk size: %d", byte);
        return;
    }
    if (c->framing == OVER || byte != *expected[c->framing]) fault("broken framing in state %d: %d", (int)c->framing, byte);
    if (c->framing == SIZE_END) c->framing = c->left ? DATA : LAST;
    else if (c->framing == DATA_END_2) c->framing = SIZE;
    else c->framing++;
}

static void take_stream(struct client *c, const char *at, const char *end, int64_t now)
{
    while (at < end) {
        if (c->framing != DATA) {
            frame(c, *at++);
            continue;
        }
        size_t size = (size_t)(end - at) < (size_t)c->left ? (size_t)(end - at) : (size_t)c->left;
        keep(c, at, size);
        at += size;
        if (!(c->left -= (long)size)) c->framing = DATA_END;
    }
    take_events(c, now);
    if (c->framing == OVER) over(c, now);
}

static void take_body(struct client *c, const char *at, const char *end, int64_t now)
{
    if (tokens) {
        take_stream(c, at, end, now);
        return;
    }
    keep(c, at, (size_t)(end - at));
    if ((c->left -= end - at) > 0) return;
    check_whole(c);
    over(c, now);
}

static void take_head(struct client *c, const char *data, size_t length, int64_t now)
{
    keep(c, data, length);
    char *stop = memmem(c->text, c->have, "\r\n\r\n", 4);
    if (!stop) return;
    if (memcmp(c->text, "HTTP/1.1 200", 12)) fault("not status 200: %.1200s", c->text);
    *stop = 0;
    char *line = strcasestr(c->text, "\r\ncontent-length:");
    bool chunked = strcasestr(c->text, "\r\ntransfer-encoding: chunked");
    if (tokens ? !chunked : !line) fault("neither chunks nor a length: %.600s", c->text);
    if (line) c->left = atol(line + 17);
    c->head_read = true;
    char *rest = stop + 4;
    size_t have = c->have - (size_t)(rest - c->text);
    c->have = 0; /* `rest` lies behind what is kept from now on, and keep() copies what fits: move it out of the way. */
    char *body = memcpy(malloc(have + 1), rest, have);
    if (have) take_body(c, body, body + have, now);
    free(body);
}

static void readable(struct client *c)
{
    static char data[READ];
    ssize_t got = recv(c->fd, data, READ, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fault("connection lost after %ld tokens: %s", c->number, got ? strerror(errno) : "closed");
    if (!c->busy) fault("bytes that answer nothing: %.*s", (int)(got < 300 ? got : 300), data);
    int64_t now = now_ns();
    if (c->head_read) take_body(c, data, data + got, now);
    else take_head(c, data, (size_t)got, now);
}

/* --- the plan --- */

/* Sends what should have been sent by now; when to look again, or -1. */
static int64_t keep_plan(void)
{
    int64_t next = begun + (int64_t)((double)asked / rate * SECOND);
    for (; next <= now_ns() && (kind == HOLD ? asked < connections : next < stop_at);
         next = begun + (int64_t)((double)asked / rate * SECOND)) {
        struct client *c = kind == HOLD ? &clients[asked] : idle;
        if (!c) return -1; /* None is free: whichever is next counts from when it was planned. */
        if (kind == HOLD) connect_client(c);
        else idle = c->next_idle;
        ask(c, next);
        if (kind == HOLD && asked == connections) {
            printf("{\"open\":%ld}\n", asked);
            fflush(stdout);
        }
    }
    return kind == HOLD ? (asked < connections ? next : -1) : next < stop_at ? next : -1;
}

static void begin(void)
{
    clients = calloc((size_t)connections, sizeof *clients);
    for (long n = 0; kind != HOLD && n < connections; n++) {
        connect_client(&clients[n]);
        clients[n].next_idle = idle;
        idle = &clients[n];
    }
    if (kind == OPEN && tokens && !rate) rate = (double)connections * 1000 / (double)(tokens * interval_ms);
    begun = now_ns();
    warm_at = begun + (int64_t)((kind == HOLD ? 0 : warm) * SECOND);
    stop_at = warm_at + (int64_t)(seconds * SECOND);
    while (kind == CLOSED && idle) {
        struct client *c = idle;
        idle = c->next_idle;
        ask(c, begun);
    }
}

static void run(void)
{
    static struct epoll_event events[EVENTS];
    begin();
    int64_t last = stop_at + (kind == HOLD ? 0 : LATE);
    for (;;) {
        int64_t now = now_ns(), next = kind == CLOSED ? -1 : keep_plan();
        bool all_asked = kind == HOLD ? asked == connections : now >= stop_at;
        if (all_asked && asked == answered) return;
        if (now > last) fault("%ld of %ld requests were never answered", asked - answered, asked);
        if (next < 0) next = now < stop_at ? stop_at : last + SECOND;
        int seen = await_events(poll_fd, events, EVENTS, next);
        for (int n = 0; n < seen; n++) readable(events[n].data.ptr);
    }
}

static void take_word(const char *word)
{
    const char *value = strchr(word, '=');
    size_t length = value ? (size_t)(value++ - word) : 0;
#define IS(name) (length == strlen(name) && !memcmp(word, name, length))
    if (IS("port")) port = atoi(value);
    else if (IS("connections")) connections = atol(value);
    else if (IS("tokens")) tokens = atol(value);
    else if (IS("interval_ms")) interval_ms = atol(value);
    else if (IS("usage")) usage = atol(value);
    else if (IS("seconds")) seconds = atof(value);
    else if (IS("warm")) warm = atof(value);
    else if (IS("rate")) rate = atof(value);
    else if (IS("key")) key = value;
    else if (IS("model")) model = value;
    else fault("unknown word: %s", word);
#undef IS
}

int main(int count, char **words)
{
    if (count < 2) return fputs("load: closed, open or hold, then words as bench/load.c says\n", stderr), 2;
    kind = !strcmp(words[1], "closed") ? CLOSED : !strcmp(words[1], "open") ? OPEN : HOLD;
    if (kind == HOLD && strcmp(words[1], "hold")) fault("unknown kind: %s", words[1]);
    for (int n = 2; n < count; n++) take_word(words[n]);
    if (kind != CLOSED && !rate && !(kind == OPEN && tokens && interval_ms)) fault("no rate");
    if (!port || connections < 1) fault("no port, or no connections");
    if (strlen(key) + strlen(model) > 1000) fault("key and model are too long");
    prepare_process();
    prepare_request();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    run();
    tell();
    return 0;
}
