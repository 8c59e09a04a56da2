// The exceptions that keep their type across processes, derived classes before their bases.
#pragma once
#include <exception>
#include <new>
#include <stdexcept>

#define SELFREG_ERRORS(DO)                                                       \
    DO(std::invalid_argument)                                                    \
    DO(std::domain_error)                                                        \
    DO(std::length_error)                                                        \
    DO(std::out_of_range)                                                        \
    DO(std::logic_error)                                                         \
    DO(std::range_error)                                                         \
    DO(std::overflow_error)                                                      \
    DO(std::underflow_error)                                                     \
    DO(std::runtime_error)
