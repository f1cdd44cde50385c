/* Runs a kernel over all inputs on a Cortex-M of qemu, and prints its checksum and the instructions it took.
 *
 * With -icount shift=0 an instruction takes 1 ns of virtual time, and SysTick of the machine mps2-an386 counts every
 * 40 ns. Compiled with the generated header included, FUNCTION=gem_q31, ELEMENT=int16_t and LOW=-32768; with GENERIC the
 * compiler does not know which layer runs.
 */
#include <stddef.h>
#include <stdint.h>

#define BLOCK 256
#define SYSTICK ((volatile uint32_t *)0xE000E010)

extern uint32_t stack_top[];
void reset(void);
__attribute__((section(".vectors"), used)) static const void *vectors[] = {stack_top, (const void *)reset};

#ifdef GENERIC
static const LAYER *volatile chosen = &layer1;
#endif
static ELEMENT in[BLOCK], out[BLOCK];

__attribute__((noinline)) static void run(const ELEMENT *from, ELEMENT *to, size_t count) {
#ifdef GENERIC
    const LAYER *const layer = chosen;
#else
    const LAYER *const layer = &layer1;
#endif
    for (size_t i = 0; i < count; i++) to[i] = (ELEMENT)FUNCTION(layer, from[i]);
}

static void call_host(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void print(uint32_t number) {
    char text[12];
    char *digit = text + 11;
    *digit = 0;
    *--digit = '\n';
    do {
        *--digit = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    call_host(4, digit);
}

void reset(void) {
    uint32_t sum = 2166136261u, ticks = 0;
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
    for (int32_t q = LOW; q <= -(LOW + 1); q += BLOCK) {
        uint32_t start;
        for (int i = 0; i < BLOCK; i++) in[i] = (ELEMENT)(q + i);
        start = SYSTICK[2];
        run(in, out, BLOCK);
        ticks += (start - SYSTICK[2]) & 0xFFFFFF;
        for (int i = 0; i < BLOCK; i++) sum = (sum ^ ((uint32_t)out[i] & 0xFFFFu)) * 16777619u;
    }
    print(sum);
    print(ticks);
    call_host(0x18, (const void *)0x20026);
    for (;;) {
    }
}
