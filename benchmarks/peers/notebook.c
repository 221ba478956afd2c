/* The notebook's 3-4-1 network (relu, sigmoid, mean squared error), 4 rows, full batch:
 * every size is a constant, so the compiler unrolls all loops and keeps the parameters in registers. */
#include <math.h>

enum { ROWS = 4, IN = 3, HID = 4 };

typedef struct { float W1[IN][HID], b1[HID], W2[HID], b2; } Params;

/* Trains for so many steps in place; returns the loss before the last of them. */
float train(long steps, float rate, float bias_rate, Params *params, const float X[ROWS][IN], const float y[ROWS])
{
    Params p = *params;
    float loss = 0;
    for (long step = 0; step < steps; step++) {
        Params g = {0};
        loss = 0;
        for (int r = 0; r < ROWS; r++) {
            float h[HID], z = p.b2;
            for (int j = 0; j < HID; j++) {
                float a = p.b1[j];
                for (int i = 0; i < IN; i++) a += X[r][i] * p.W1[i][j];
                h[j] = a > 0 ? a : 0;
                z += h[j] * p.W2[j];
            }
            float out = 1 / (1 + expf(-z)), error = out - y[r];
            float delta = 2.0f / ROWS * error * out * (1 - out);
            loss += error * error / ROWS;
            g.b2 += delta;
            for (int j = 0; j < HID; j++) {
                float d = h[j] > 0 ? delta * p.W2[j] : 0;
                g.W2[j] += delta * h[j];
                g.b1[j] += d;
                for (int i = 0; i < IN; i++) g.W1[i][j] += X[r][i] * d;
            }
        }
        for (int j = 0; j < HID; j++) {
            for (int i = 0; i < IN; i++) p.W1[i][j] -= rate * g.W1[i][j];
            p.W2[j] -= rate * g.W2[j];
            p.b1[j] -= bias_rate * g.b1[j];
        }
        p.b2 -= bias_rate * g.b2;
    }
    *params = p;
    return loss;
}
