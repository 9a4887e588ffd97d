# A later version of the orders example: the files of one folder of examples/orders/variants over
# the image of the version before it.
ARG BEFORE=localhost/everstep-orders:v1
FROM ${BEFORE}
ARG APP_VERSION
COPY ${APP_VERSION}/ /app/
