/* The load generator: thousands of WebSocket clients on one epoll loop, checked as they are timed.
 *
 * It is told what to do on stdin, one command a line, and answers on stdout, one JSON a line:
 *
 *   group NAME DIALECT [resume] [stalled] [idle]   DIALECT: plain, v1, sio
 *       resume: it comes back with its last cursor, also when the server ends it; stalled: it never
 *       reads; idle: nothing is emitted for it
 *   viewers NAME COUNT PROJECT URL     ws://ADDRESS:PORT/PATH; PROJECT is the number in the events
 *   open NAME RATE INFLIGHT            connect them, RATE a second (0: no pace)
 *   measure FROM TO                    time those events that are due in [FROM, TO), microseconds
 *   expect FACTS LAST                  told "complete" when every reader has fact FACTS and event LAST
 *   drop NAME RATE INFLIGHT            reset every connection and come back, with the last cursor
 *   churn NAME RATE                    from now on reset RATE connections a second, at random
 *   wake NAME                          stalled viewers begin to read
 *   end                                report and exit
 *
 * Each event must hold  "due":D,"p":P,"n":N,"f":F  in this order: when it was due (CLOCK_REALTIME,
 * microseconds), its project's number, its place among the events of that project (from 1, strictly
 * ascending for a viewer) and, for a fact, among its facts (from 1, dense for a viewer), else 0.
 *
 * Frames are read in place from one large buffer; only an incomplete one is copied. Nothing is
 * allocated per event. Frames that a server fragments or compresses are counted as `broken`.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RX_BYTES = 1 << 18, PART_BYTES = 1 << 14, MOST_GROUPS = 8, MOST_EVENTS = 1024, CURSOR_BYTES = 65, NAME_BYTES = 32 };
enum { SUB_BITS = 11, SUB = 1 << SUB_BITS, BUCKETS = (40 - SUB_BITS) * (SUB / 2) + SUB };
enum dialect { PLAIN, V1, SIO };
enum state { IDLE, QUEUED, CONNECTING, UPGRADING, OPEN, DEAD };

/* Log-linear counts: the layout of HdrHistogram with 3 significant digits, unit 1 microsecond. */
struct histogram { uint64_t total, counts[BUCKETS]; };

struct group {
    char name[NAME_BYTES];
    enum dialect dialect;
    bool resume, stalled, idle;
    double rate, churn_rate, tokens, churn_tokens;
    int64_t paced_at, churned_at, opened_at, dropped_at;
    uint32_t inflight, most_inflight, viewers, open, opened, returning, living, storm;
    uint32_t *queue, head, queued, capacity;
    uint32_t *members;
    bool told_open;
    uint64_t events, facts, skipped, frames, bytes, lost, duplicates, disordered, foreign, broken;
    uint64_t broken_chain, gaps, errors, refused, closes, resumed, pings;
    int64_t first_us, last_us;
    struct histogram facts_us, states_us, connect_us, live_us;
    char refusal[64];
    uint32_t close_codes[5000];
};

struct viewer {
    int fd;
    enum state state;
    uint32_t group, project;
    const char *url;
    bool complete, awaits_live;
    int64_t began_us, upgraded_us, dropped_us;
    uint64_t last_n, last_f;
    char cursor[CURSOR_BYTES], chain[CURSOR_BYTES];
    uint8_t *part;
    uint32_t held, room;
};

static struct group groups[MOST_GROUPS];
static uint32_t group_count, viewer_count, viewer_room, incomplete, opens;
static struct viewer *viewers;
static uint8_t rx[RX_BYTES];
static int epoll_fd;
static int64_t measure_from = INT64_MAX, measure_to = INT64_MAX, now_us;
static uint64_t expect_f, expect_n;
static bool expecting;
static struct rusage usage_from;
static int64_t wall_from;

static int64_t clock_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at); /* the emitter is another process */
    return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void *grown(void *old, size_t bytes) {
    void *fresh = realloc(old, bytes);
    if (!fresh) die("out of memory");
    return fresh;
}

/* --- histograms ------------------------------------------------------------------------------ */

static void count_us(struct histogram *h, int64_t value) {
    if (value < 0) value = 0;
    if (value >= INT64_C(1) << 39) value = (INT64_C(1) << 39) - 1;
    int shift = value < SUB ? 0 : 64 - __builtin_clzll((uint64_t)value) - SUB_BITS;
    h->counts[(shift * (SUB / 2)) + (value >> shift)]++;
    h->total++;
}

static int64_t value_at(uint32_t index) {
    if (index < SUB) return index;
    int shift = index / (SUB / 2) - 1;
    return (int64_t)(index - shift * (SUB / 2)) << shift;
}

static void print_histogram(const char *name, const struct histogram *h) {
    printf(",\"%s\":[", name);
    const char *comma = "";
    for (uint32_t i = 0; h->total && i < BUCKETS; i++)
        if (h->counts[i]) {
            printf("%s[%" PRId64 ",%" PRIu64 "]", comma, value_at(i), h->counts[i]);
            comma = ",";
        }
    putchar(']');
}

/* --- connections ----------------------------------------------------------------------------- */

static void enqueue(uint32_t index) {
    struct group *g = &groups[viewers[index].group];
    viewers[index].state = QUEUED;
    g->queue[(g->head + g->queued++) % g->capacity] = index;
}

static void watch(uint32_t index, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = index};
    if (epoll_ctl(epoll_fd, operation, viewers[index].fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void shut(struct viewer *v, bool reset) {
    struct group *g = &groups[v->group];
    if (v->state == CONNECTING || v->state == UPGRADING) g->inflight--;
    if (v->state == OPEN) g->open--, opens--;
    if (reset) {
        struct linger hard = {1, 0};
        setsockopt(v->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    if (v->fd >= 0) close(v->fd);
    v->fd = -1;
    v->held = 0;
    v->state = DEAD;
}

/* The connection has ended, by the server's will: come back if the group does so. */
static void lose(uint32_t index, uint32_t code) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    bool was_open = v->state == OPEN;
    shut(v, false);
    if (was_open) {
        g->closes++;
        g->close_codes[code < 5000 ? code : 0]++;
    } else {
        g->refused++;
    }
    if (g->resume) enqueue(index);
}

static void begin(uint32_t index) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    struct sockaddr_in to = {.sin_family = AF_INET};
    char host[64];
    int port;
    if (sscanf(v->url, "ws://%63[0-9.]:%d/", host, &port) != 2) die("not ws://ADDRESS:PORT/…: %s", v->url);
    inet_pton(AF_INET, host, &to.sin_addr);
    to.sin_port = htons((uint16_t)port);
    v->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (v->fd < 0) die("socket: %s (raise the limit of open files: ulimit -n)", strerror(errno));
    int one = 1, small = 4096;
    setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (g->stalled) setsockopt(v->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    v->state = CONNECTING;
    v->began_us = clock_us();
    v->upgraded_us = 0;
    g->inflight++;
    watch(index, EPOLL_CTL_ADD, EPOLLOUT);
    if (connect(v->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) lose(index, 0);
}

static void ask(uint32_t index) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    char request[1024];
    const char *path = strchr(v->url + 5, '/');
    const char *separator = strchr(path, '?') ? "&" : "?";
    bool back = g->resume && *v->cursor;
    int size = snprintf(request, sizeof request,
                        "GET %s%s%s%s HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n",
                        path, back ? separator : "", back ? "after=" : "", back ? v->cursor : "",
                        g->dialect == V1 ? "Sec-WebSocket-Protocol: tailrace.v1.json\r\n" : "");
    if (size >= (int)sizeof request) die("url too long: %s", v->url);
    v->state = UPGRADING;
    watch(index, EPOLL_CTL_MOD, EPOLLIN);
    if (send(v->fd, request, (size_t)size, MSG_NOSIGNAL) != size) lose(index, 0);
}

static void tell_open(struct group *g) {
    if (g->told_open || g->open + g->refused < g->viewers) return;
    g->told_open = true;
    printf("{\"said\":\"open\",\"group\":\"%s\",\"open\":%u,\"refused\":%" PRIu64 ",\"seconds\":%.6f,\"refusal\":\"%s\"}\n",
           g->name, g->open, g->refused, (double)(now_us - g->opened_at) / 1e6, g->refusal);
}

/* The viewer is served: it counts as open. */
static void opened(uint32_t index) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    v->state = OPEN;
    v->upgraded_us = now_us;
    g->inflight--;
    g->open++, opens++, g->opened++;
    count_us(&g->connect_us, now_us - v->began_us);
    if (g->stalled) watch(index, EPOLL_CTL_DEL, 0);
    tell_open(g);
}

static void reset(uint32_t index) {
    struct viewer *v = &viewers[index];
    shut(v, true);
    v->awaits_live = true;
    v->dropped_us = now_us;
    groups[v->group].returning++;
    enqueue(index);
}

/* Connect whom the pace and the bound allow; tell whether somebody waits for the pace. */
static bool advance(struct group *g) {
    if (g->churn_rate > 0) {
        g->churn_tokens += (double)(now_us - g->churned_at) / 1e6 * g->churn_rate;
        g->churned_at = now_us;
        for (; g->churn_tokens >= 1; g->churn_tokens--) {
            uint32_t index = g->members[(uint32_t)rand() % g->viewers];
            if (viewers[index].state == OPEN && !viewers[index].awaits_live) reset(index);
        }
    }
    if (!g->queued) {
        g->paced_at = now_us;
        return g->churn_rate > 0;
    }
    g->tokens += (double)(now_us - g->paced_at) / 1e6 * g->rate;
    g->paced_at = now_us;
    if (g->tokens > 1000) g->tokens = 1000;
    int most = 64; /* between two looks at the sockets */
    while (g->queued && most-- && g->inflight < g->most_inflight && (g->rate == 0 || g->tokens >= 1)) {
        uint32_t index = g->queue[g->head];
        g->head = (g->head + 1) % g->capacity;
        g->queued--;
        if (g->rate != 0) g->tokens--;
        begin(index);
    }
    return g->churn_rate > 0 || g->queued;
}

/* --- what is received ------------------------------------------------------------------------ */

static void send_frame(uint32_t index, uint8_t opcode, const uint8_t *payload, size_t size) {
    uint8_t frame[6 + 125] = {0x80 | opcode, 0x80 | (uint8_t)size}; /* masked with zeros */
    if (size > 125) return;
    memcpy(frame + 6, payload, size);
    ssize_t ignored = send(viewers[index].fd, frame, 6 + size, MSG_NOSIGNAL);
    (void)ignored;
}

static bool number(const uint8_t **at, const uint8_t *end, const char *name, int64_t *value) {
    const uint8_t *p = *at;
    size_t size = strlen(name);
    while (p < end && (*p == ',' || *p == ' ')) p++;
    if ((size_t)(end - p) <= size || memcmp(p, name, size)) return false;
    for (p += size; p < end && *p == ' ';) p++;
    if (p == end || *p < '0' || *p > '9') return false;
    for (*value = 0; p < end && *p >= '0' && *p <= '9'; p++) *value = *value * 10 + (*p - '0');
    *at = p;
    return true;
}

static void tell_complete(void) {
    if (expecting && !incomplete) {
        expecting = false;
        puts("{\"said\":\"complete\"}");
    }
}

static void note_live(struct viewer *v, int64_t due) {
    struct group *g = &groups[v->group];
    if (!v->awaits_live || due < v->upgraded_us) return;
    v->awaits_live = false;
    g->living++;
    count_us(&g->live_us, now_us - v->dropped_us);
    if (g->storm && g->living == g->storm) {
        printf("{\"said\":\"live\",\"group\":\"%s\",\"seconds\":%.6f}\n", g->name, (double)(now_us - g->dropped_at) / 1e6);
        g->storm = 0;
    }
}

static bool is_reader(const struct viewer *v) {
    const struct group *g = &groups[v->group];
    return !g->stalled && !g->idle;
}

static void check(struct viewer *v, struct group *g, int64_t project, uint64_t n, uint64_t f) {
    if (project != v->project) {
        g->foreign++;
        return;
    }
    if (n == v->last_n || (f && f == v->last_f)) {
        g->duplicates++;
        return;
    }
    if (n < v->last_n) {
        g->disordered++;
        return;
    }
    v->last_n = n;
    if (f) {
        if (f > v->last_f + 1) g->lost += f - v->last_f - 1;
        v->last_f = f;
        g->facts++;
    }
    if (expecting && !v->complete && is_reader(v) && v->last_f >= expect_f && v->last_n >= expect_n) {
        v->complete = true;
        incomplete--;
    }
}

static void scan_events(struct viewer *v, const uint8_t *p, const uint8_t *end) {
    struct group *g = &groups[v->group];
    while ((p = memmem(p, (size_t)(end - p), "\"due\":", 6))) {
        int64_t due, project, n, f;
        if (!number(&p, end, "\"due\":", &due) || !number(&p, end, "\"p\":", &project) ||
            !number(&p, end, "\"n\":", &n) || !number(&p, end, "\"f\":", &f)) {
            g->broken++;
            return;
        }
        g->events++;
        g->last_us = now_us;
        if (!g->first_us) g->first_us = now_us;
        if (due >= measure_from && due < measure_to) count_us(f ? &g->facts_us : &g->states_us, now_us - due);
        note_live(v, due);
        check(v, g, project, (uint64_t)n, (uint64_t)f);
    }
}

/* Copy the text member `name` that stands in [at, end); return what follows it, or NULL. */
static const uint8_t *text(const uint8_t *at, const uint8_t *end, const char *name, char *into) {
    size_t size = strlen(name);
    const uint8_t *p = memmem(at, (size_t)(end - at), name, size);
    if (!p) return NULL;
    p += size;
    const uint8_t *quote = memchr(p, '"', (size_t)(end - p));
    if (!quote || quote - p >= CURSOR_BYTES) return NULL;
    memcpy(into, p, (size_t)(quote - p));
    into[quote - p] = 0;
    return quote;
}

static bool starts(const uint8_t *p, const uint8_t *end, const char *with) {
    size_t size = strlen(with);
    return (size_t)(end - p) >= size && !memcmp(p, with, size);
}

static void hear_v1(uint32_t index, const uint8_t *p, const uint8_t *end) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    char prev[CURSOR_BYTES], cursor[CURSOR_BYTES];
    if (starts(p, end, "{\"t\":\"batch\"") || starts(p, end, "{\"t\":\"gap\"")) {
        const uint8_t *rest = text(p, end, "\"prev\":\"", prev);
        rest = rest ? text(rest, end, "\"cursor\":\"", cursor) : NULL;
        if (!rest) {
            g->broken++;
            return;
        }
        if (strcmp(prev, v->chain)) g->broken_chain++;
        strcpy(v->chain, cursor);
        strcpy(v->cursor, cursor);
        if (p[6] == 'g') {
            g->gaps++;
            return;
        }
        int64_t skipped = 0;
        rest++;
        if (number(&rest, end, "\"skipped\":", &skipped)) g->skipped += (uint64_t)skipped;
        scan_events(v, rest, end);
    } else if (starts(p, end, "{\"t\":\"subscribed\"")) {
        if (!text(p, end, "\"cursor\":\"", cursor)) g->broken++;
        if (g->resume && *v->cursor) {
            if (strcmp(cursor, v->cursor)) g->broken_chain++;
            g->resumed++;
        }
        if (!memmem(p, (size_t)(end - p), "\"gap\":null", 10)) g->gaps++;
        strcpy(v->chain, cursor);
        strcpy(v->cursor, cursor);
        if (v->state == UPGRADING) opened(index);
    } else if (starts(p, end, "{\"t\":\"error\"")) {
        g->errors++;
    }
}

static void hear_plain(struct viewer *v, const uint8_t *p, const uint8_t *end) {
    struct group *g = &groups[v->group];
    if (g->resume && end - p > 12 && end[-1] == '}' && end[-2] == '"') { /* "cursor" is the last member */
        const uint8_t *quote = memrchr(p, '"', (size_t)(end - 2 - p));
        const uint8_t *member = quote ? quote - 9 : NULL;
        if (member && member > p && !memcmp(member, "\"cursor\":", 9) && end - quote - 3 < CURSOR_BYTES) {
            memcpy(v->cursor, quote + 1, (size_t)(end - quote - 3));
            v->cursor[end - quote - 3] = 0;
        }
    }
    if (starts(p, end, "{\"type\":\"stream.gap\"")) g->gaps++;
    else scan_events(v, p, end);
}

static void hear_sio(uint32_t index, const uint8_t *p, const uint8_t *end) {
    if (p == end) return;
    if (*p == '0') send_frame(index, 1, (const uint8_t *)"40", 2); /* Engine.IO open: join the namespace */
    else if (*p == '2') send_frame(index, 1, (const uint8_t *)"3", 1); /* Engine.IO ping */
    else if (starts(p, end, "40") && viewers[index].state == UPGRADING) opened(index);
    else if (starts(p, end, "42")) scan_events(&viewers[index], p + 2, end);
}

/* Take one frame off [p, end); return its size, 0 if it is not whole, -1 if the connection ended. */
static int64_t take_frame(uint32_t index, const uint8_t *p, const uint8_t *end) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    int64_t head = 2, size;
    if (end - p < 2) return 0;
    size = p[1] & 0x7f;
    if (size == 126) {
        head = 4;
        if (end - p < head) return 0;
        size = p[2] << 8 | p[3];
    } else if (size == 127) {
        head = 10;
        if (end - p < head) return 0;
        size = 0;
        for (int i = 2; i < 10; i++) size = size << 8 | p[i];
    }
    if (size < 0 || size > 1 << 26) {
        g->broken++;
        lose(index, 1002);
        return -1;
    }
    if (end - p < head + size) return 0;
    const uint8_t *payload = p + head, *last = payload + size;
    switch (p[0]) {
    case 0x81:
        g->frames++;
        if (g->dialect == V1) hear_v1(index, payload, last);
        else if (g->dialect == SIO) hear_sio(index, payload, last);
        else hear_plain(v, payload, last);
        break;
    case 0x88:
        send_frame(index, 8, payload, size >= 2 ? 2 : 0);
        lose(index, size >= 2 ? (uint32_t)(payload[0] << 8 | payload[1]) : 1005);
        return -1;
    case 0x89:
        g->pings++;
        send_frame(index, 10, payload, (size_t)size);
        break;
    case 0x8a:
        break;
    default: /* fragmented, compressed or binary: nothing here asks for that */
        g->broken++;
        lose(index, 1003);
        return -1;
    }
    return head + size;
}

/* Take the answer to the handshake off; as `take_frame`. */
static int64_t take_answer(uint32_t index, const uint8_t *p, const uint8_t *end) {
    struct group *g = &groups[viewers[index].group];
    const uint8_t *blank = memmem(p, (size_t)(end - p), "\r\n\r\n", 4);
    if (!blank) return 0;
    if (!starts(p, end, "HTTP/1.1 101")) {
        const uint8_t *line = memchr(p, '\r', (size_t)(end - p));
        size_t size = (size_t)(line - p) < sizeof g->refusal - 1 ? (size_t)(line - p) : sizeof g->refusal - 1;
        for (size_t i = 0; i < size; i++) g->refusal[i] = p[i] < 32 || p[i] == '"' || p[i] == '\\' ? '?' : (char)p[i];
        lose(index, 0);
        tell_open(g);
        return -1;
    }
    if (g->dialect == PLAIN) {
        g->resumed += g->resume && *viewers[index].cursor;
        opened(index);
    } else {
        viewers[index].upgraded_us = -1; /* open when it is subscribed */
    }
    return blank + 4 - p;
}

static void hear(uint32_t index) {
    struct viewer *v = &viewers[index];
    struct group *g = &groups[v->group];
    uint8_t *from = rx;
    uint32_t room = RX_BYTES;
    if (v->held) { /* the frame began with an earlier read */
        if (v->room < v->held + PART_BYTES) v->part = grown(v->part, v->room = v->held + PART_BYTES);
        from = v->part;
        room = PART_BYTES;
    }
    ssize_t got = recv(v->fd, from + v->held, room, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        lose(index, 1006);
        tell_open(g);
        return;
    }
    now_us = clock_us();
    g->bytes += (uint64_t)got;
    const uint8_t *p = from, *end = from + v->held + got;
    for (;;) {
        bool asked = v->state == UPGRADING && v->upgraded_us != -1;
        int64_t size = asked ? take_answer(index, p, end) : take_frame(index, p, end);
        if (size < 0) return;
        if (!size) break;
        p += size;
    }
    uint32_t left = (uint32_t)(end - p);
    if (left > v->room) v->part = grown(v->part, v->room = left);
    if (left) memmove(v->part, p, left);
    v->held = left;
}

/* --- commands -------------------------------------------------------------------------------- */

static struct group *find(const char *name) {
    for (uint32_t i = 0; i < group_count; i++)
        if (!strcmp(groups[i].name, name)) return &groups[i];
    die("no group %s", name);
    return NULL;
}

static void make_group(char *rest) {
    struct group *g = &groups[group_count];
    char *word = strtok(rest, " ");
    if (!word || group_count == MOST_GROUPS) die("a group needs a name; there are at most %d", MOST_GROUPS);
    snprintf(g->name, sizeof g->name, "%s", word);
    word = strtok(NULL, " ");
    if (word && !strcmp(word, "plain")) g->dialect = PLAIN;
    else if (word && !strcmp(word, "v1")) g->dialect = V1;
    else if (word && !strcmp(word, "sio")) g->dialect = SIO;
    else die("unknown dialect");
    while ((word = strtok(NULL, " "))) {
        if (!strcmp(word, "resume")) g->resume = true;
        else if (!strcmp(word, "stalled")) g->stalled = true;
        else if (!strcmp(word, "idle")) g->idle = true;
        else die("unknown flag %s", word);
    }
    group_count++;
}

static void make_viewers(struct group *g, uint32_t count, uint32_t project, const char *url) {
    url = strdup(url);
    g->members = grown(g->members, (g->viewers + count) * sizeof *g->members);
    g->queue = grown(g->queue, (g->viewers + count) * sizeof *g->queue);
    g->capacity = g->viewers + count;
    while (count--) {
        if (viewer_count == viewer_room) {
            viewer_room = viewer_room ? 2 * viewer_room : 1024;
            viewers = grown(viewers, viewer_room * sizeof *viewers);
        }
        viewers[viewer_count] = (struct viewer){.fd = -1, .group = (uint32_t)(g - groups), .project = project, .url = url};
        g->members[g->viewers++] = viewer_count++;
    }
}

static void pace(struct group *g, double rate, uint32_t most_inflight) {
    g->rate = rate;
    g->tokens = 0;
    g->most_inflight = most_inflight;
    g->paced_at = now_us;
}

static void open_group(struct group *g, double rate, uint32_t most_inflight) {
    pace(g, rate, most_inflight);
    g->opened_at = now_us;
    for (uint32_t i = 0; i < g->viewers; i++) enqueue(g->members[i]);
}

static void drop_group(struct group *g, double rate, uint32_t most_inflight) {
    pace(g, rate, most_inflight);
    g->dropped_at = now_us;
    g->living = g->storm = 0;
    for (uint32_t i = 0; i < g->viewers; i++)
        if (viewers[g->members[i]].state == OPEN) {
            reset(g->members[i]);
            g->storm++;
        }
}

static void wake_group(struct group *g) {
    g->stalled = false;
    for (uint32_t i = 0; i < g->viewers; i++)
        if (viewers[g->members[i]].state == OPEN) watch(g->members[i], EPOLL_CTL_ADD, EPOLLIN);
    expecting = false; /* of whom, is another question now: ask again */
}

static void expect(uint64_t f, uint64_t n) {
    expect_f = f;
    expect_n = n;
    expecting = true;
    incomplete = 0;
    for (uint32_t i = 0; i < viewer_count; i++) {
        struct viewer *v = &viewers[i];
        v->complete = v->last_f >= f && v->last_n >= n;
        incomplete += !v->complete && is_reader(v) && v->state != DEAD && v->state != IDLE;
    }
    tell_complete();
}

static double seconds(struct timeval at) {
    return (double)at.tv_sec + (double)at.tv_usec / 1e6;
}

static void report(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    if (wall_from) cpu -= seconds(usage_from.ru_utime) + seconds(usage_from.ru_stime);
    double wall = (double)(clock_us() - wall_from) / 1e6;
    printf("{\"said\":\"end\",\"cpu_seconds\":%.6f,\"wall_seconds\":%.6f,\"groups\":{", cpu, wall_from ? wall : 0.0);
    for (uint32_t i = 0; i < group_count; i++) {
        struct group *g = &groups[i];
        uint64_t tail = 0;
        for (uint32_t j = 0; j < g->viewers; j++) {
            struct viewer *v = &viewers[g->members[j]];
            if (is_reader(v) && v->last_f < expect_f) tail += expect_f - v->last_f;
        }
        printf("%s\"%s\":{\"viewers\":%u,\"open\":%u,\"opened\":%u,\"refused\":%" PRIu64 ",\"refusal\":\"%s\"", i ? "," : "",
               g->name, g->viewers, g->open, g->opened, g->refused, g->refusal);
        printf(",\"events\":%" PRIu64 ",\"facts\":%" PRIu64 ",\"skipped\":%" PRIu64 ",\"frames\":%" PRIu64
               ",\"bytes\":%" PRIu64,
               g->events, g->facts, g->skipped, g->frames, g->bytes);
        printf(",\"lost\":%" PRIu64 ",\"missing\":%" PRIu64 ",\"duplicates\":%" PRIu64 ",\"disordered\":%" PRIu64
               ",\"foreign\":%" PRIu64 ",\"broken\":%" PRIu64 ",\"broken_chain\":%" PRIu64,
               g->lost, tail, g->duplicates, g->disordered, g->foreign, g->broken, g->broken_chain);
        printf(",\"gaps\":%" PRIu64 ",\"errors\":%" PRIu64 ",\"closes\":%" PRIu64 ",\"resumed\":%" PRIu64
               ",\"returning\":%u,\"living\":%u,\"pings\":%" PRIu64,
               g->gaps, g->errors, g->closes, g->resumed, g->returning, g->living, g->pings);
        printf(",\"first_us\":%" PRId64 ",\"last_us\":%" PRId64 ",\"close_codes\":{", g->first_us, g->last_us);
        const char *comma = "";
        for (uint32_t code = 0; code < 5000; code++)
            if (g->close_codes[code]) {
                printf("%s\"%u\":%u", comma, code, g->close_codes[code]);
                comma = ",";
            }
        putchar('}');
        print_histogram("facts_us", &g->facts_us);
        print_histogram("states_us", &g->states_us);
        print_histogram("connect_us", &g->connect_us);
        print_histogram("live_us", &g->live_us);
        putchar('}');
    }
    puts("}}");
    fflush(stdout);
}

static bool obey(char *line) {
    char name[NAME_BYTES], url[900];
    unsigned count, project, inflight;
    double rate;
    uint64_t f, n;
    now_us = clock_us();
    if (!strncmp(line, "group ", 6)) make_group(line + 6);
    else if (sscanf(line, "viewers %31s %u %u %899s", name, &count, &project, url) == 4)
        make_viewers(find(name), count, project, url);
    else if (sscanf(line, "open %31s %lf %u", name, &rate, &inflight) == 3) open_group(find(name), rate, inflight);
    else if (sscanf(line, "drop %31s %lf %u", name, &rate, &inflight) == 3) drop_group(find(name), rate, inflight);
    else if (sscanf(line, "churn %31s %lf", name, &rate) == 2) {
        find(name)->churn_rate = rate;
        find(name)->churned_at = now_us;
    } else if (sscanf(line, "wake %31s", name) == 1) wake_group(find(name));
    else if (sscanf(line, "expect %" SCNu64 " %" SCNu64, &f, &n) == 2) expect(f, n);
    else if (sscanf(line, "measure %" SCNd64 " %" SCNd64, &measure_from, &measure_to) == 2) {
        if (wall_from) return true; /* only the end has moved */
        getrusage(RUSAGE_SELF, &usage_from);
        wall_from = now_us;
    } else if (!strcmp(line, "end")) return false;
    else die("not understood: %s", line);
    return true;
}

/* Read what stdin has; false at the command `end`, or when the other side has gone. */
static bool obey_all(void) {
    static char buffer[1 << 16];
    static size_t held;
    ssize_t got = read(0, buffer + held, sizeof buffer - held);
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR);
    held += (size_t)got;
    char *line = buffer, *end;
    while ((end = memchr(line, '\n', held - (size_t)(line - buffer)))) {
        *end = 0;
        if (!obey(line)) return false;
        line = end + 1;
    }
    held -= (size_t)(line - buffer);
    memmove(buffer, line, held);
    return true;
}

int main(void) {
    struct rlimit files;
    struct epoll_event events[MOST_EVENTS], commands = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    srand(1);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &commands)) die("stdin must be a pipe");
    for (bool more = true; more;) {
        bool busy = false;
        now_us = clock_us();
        for (uint32_t i = 0; i < group_count; i++) busy |= advance(&groups[i]);
        tell_complete();
        int ready = epoll_wait(epoll_fd, events, MOST_EVENTS, busy ? 1 : 100);
        for (int i = 0; more && i < ready; i++) {
            uint32_t index = events[i].data.u32;
            if (index == UINT32_MAX) more = obey_all();
            else if (viewers[index].state == CONNECTING) ask(index);
            else if (viewers[index].state == UPGRADING || viewers[index].state == OPEN) hear(index);
        }
    }
    report();
    return 0;
}
