// The library's exceptions as Python's: the classes of mixcomm/errors.py, which have the same names.
#pragma once

namespace mixcomm::python {

/// Makes every function of this extension raise the Python class of the mixcomm::Error that it threw.
void translate_errors();

/// Rethrows as a mixcomm::Timeout the Python exception in hand if it is one: for C++ that tells causes from
/// consequences. Call it in a handler of nb::python_error, with the GIL.
void rethrow_timeout();

}  // namespace mixcomm::python
