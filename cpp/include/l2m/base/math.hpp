#pragma once

namespace l2m {

// Elementary functions whose bits are the same on every processor and with every compiler: each is a fixed sequence of
// additions, multiplications and divisions of doubles, rounded one by one. Those of the standard library differ from one to
// the next. Errors are bounds on the relative error, checked in the tests against functions of higher precision.

/// Natural logarithm. @param x  positive and finite. Error: 2^-51.
double log(double x);

/// Exponential; 0 below -745.2, infinity above 709.7. Error: 2^-50, or half of the smallest double where that is larger.
double exp(double x);

/// exp(x) - 1, without loss of digits near 0. Error: 2^-49.
double expm1(double x);

/// x to the power of y. @param x  in [0, 1]. @param y  positive; infinity gives 0 below 1, and 1 at 1. Error: 2^-42, or half of the
/// smallest double where that is larger.
double pow(double x, double y);

}  // namespace l2m
