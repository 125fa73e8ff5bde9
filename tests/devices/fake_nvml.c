/* NVML's ABI, as far as it is used, on a machine without a GPU. FAKE_NVML: how it behaves. */
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

static int gpus[3] = {0, 1, 2};

static int behaves(const char *how) {
    const char *said = getenv("FAKE_NVML");
    return said != NULL && strcmp(said, how) == 0;
}

int nvmlInitWithFlags(unsigned int flags) { return behaves("no driver") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { return error == GPU_IS_LOST ? "GPU is lost" : "Driver Not Loaded"; }

int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, int **gpu) {
    if (index >= 3) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetName(int *gpu, char *name, unsigned int length) {
    strncpy(name, "NVIDIA Stand-In", length);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(int *gpu, memory_t *memory) {
    if (*gpu == 1) return GPU_IS_LOST;
    memory->total = 24576ull << 20;
    memory->used = 8192ull << 20;
    memory->free = 16384ull << 20;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(int *gpu, utilization_t *rates) {
    rates->gpu = 42;
    rates->memory = 7;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(int *gpu, int sensor, unsigned int *degrees) { *degrees = 61; return SUCCESS; }

int nvmlDeviceGetPowerUsage(int *gpu, unsigned int *milliwatts) {
    if (*gpu == 2) return NOT_SUPPORTED;
    *milliwatts = 123456;
    return SUCCESS;
}
