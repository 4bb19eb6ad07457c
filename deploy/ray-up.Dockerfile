# The image for the nodes of cluster.yaml, so that a spot node does not fetch gigabytes of packages when it starts: Ray's
# own image of the locked version, with what is locked on top.
#
#   make image-ray-up IMAGE=registry.example.com/driftrec-ray-up:0.1.0
#   docker push registry.example.com/driftrec-ray-up:0.1.0
#
# Name it in cluster.yaml as `image` and `head_image`, and remove `file_mounts` and the two lists of setup commands. The
# code of the checkout comes with the job. With `--build-arg LOCK=clouds` it reads gs:// and Azure, too.

FROM rayproject/ray:2.60.0-py311-gpu
ARG LOCK=runtime
COPY requirements/runtime.lock requirements/clouds.lock /requirements/
RUN pip install --no-cache-dir -r /requirements/${LOCK}.lock
# The autoscaler's AWS client, in the version that goes with the locked botocore.
RUN pip install --no-cache-dir boto3 -c /requirements/${LOCK}.lock
ENV RAY_USAGE_STATS_ENABLED=0
USER 1000
