// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Which sanitizer watches, for tests that would take minutes under it, or that it would end: g++ defines a macro, clang has a feature.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define TOMOGRAD_TEST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TOMOGRAD_TEST_ASAN 1
#endif
#endif
#ifndef TOMOGRAD_TEST_ASAN
#define TOMOGRAD_TEST_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__)
#define TOMOGRAD_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TOMOGRAD_TEST_TSAN 1
#endif
#endif
#ifndef TOMOGRAD_TEST_TSAN
#define TOMOGRAD_TEST_TSAN 0
#endif
