// Makes a rank late on the device.
#pragma once

namespace mixcomm::test {

/// Brings the kernel onto the device, which may wait for kernels that run: before the first operation.
void load_delay();

/// A kernel that does nothing for so long.
void delay_on(void* stream, int microseconds);

}  // namespace mixcomm::test
